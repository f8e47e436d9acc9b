"""The model card of an exported model: what it is, what it cost, how good it is, what it is not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from isoembed.encoder.base_card import HUB_ID, BaseCard
from isoembed.options import NO_PROMPTS, Prompts
from isoembed.records import RunRecord

#: a dataset on the hub in the name of data
_DATASET = re.compile(rf"hub:({HUB_ID.pattern})(?::|$)")
#: the system in a table of scores that is the model itself: its scores alone are the card's claim to the hub
TRAINED = "trained"
#: kinds of task -> the hub's task types, as sentence-transformers' own cards have them
_TASK_TYPES = {"retrieval": "information-retrieval", "sts": "semantic-similarity"}
#: what a task's name in the front matter is kept free of
_SIGNS = re.compile(r"[^\w .,:/@()-]+")

#: stands in the card for the model's place, which `isoembed push` names
FOLDER = "FOLDER"

_USE = f"""\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{FOLDER}")
embeddings = model.encode(["a text", "another text"])
print(model.similarity(embeddings, embeddings))
"""

_MATRYOSHKA = "trained to be cut at those dimensions: SentenceTransformer(..., truncate_dim=N)"

_USE_PROMPTS = f"""\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{FOLDER}")
queries = model.encode_query(["a question"])  # with the prompt for queries, and that for documents
documents = model.encode_document(["a text", "another text"])
print(model.similarity(queries, documents))
"""


def model_card(
    record: RunRecord,
    scores: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
    *,
    kinds: Mapping[str, str] | None = None,
    base: BaseCard | None = None,
    budget_flop: float | None = None,
    limits: tuple[str, ...] = (),
) -> str:
    """README.md of a model folder: front matter for the hub, then recipe, cost, data, scores, limits and use.

    `scores` is system -> task -> metric -> value (`Scores.metrics()`), the model itself called `TRAINED`; `kinds` is
    task -> kind; `base` is what the base model says of itself; `limits` adds sentences to the general ones.
    """
    recipe, base = record.recipe, base or BaseCard()
    width = recipe.options.width_of(recipe.model)
    sections = [
        _front_matter(record, base, (scores or {}).get(TRAINED, {}), kinds or {}),
        f"# {escape(recipe.model.name)} as an embedding model\n\n"
        f"A sentence-transformers model: {escape(recipe.model.name)}, fine-tuned contrastively on pairs of related "
        f"texts with isoembed, at a stated compute budget. Embeddings have {width} dimensions and unit "
        "length; compare them by cosine.",
        f"## Use\n\n```python\n{use_of(recipe.options.prompts)}```",
        "## Recipe\n\n" + _table(("", ""), _recipe_rows(record)),
        "## Cost\n\n" + _table(("", ""), _cost_rows(record, budget_flop)),
    ]
    if scores:
        sections.append("## Scores\n\n" + _score_tables(scores))
    sections.append(
        "## Limits\n\n" + "\n".join(f"- {line}" for line in (*_general_limits(record, base), *map(escape, limits)))
    )
    return "\n\n".join(sections) + "\n"


def use_of(prompts: Prompts) -> str:
    """Python that opens the model at `FOLDER` and compares texts with it."""
    own = "".join(
        f'questions = model.encode(["a question"], prompt_name={f"{each.source}-query"!r})  # as those of that source\n'
        for each in prompts.sources
    )
    return _USE if prompts == NO_PROMPTS else _USE_PROMPTS + own


def hub_labels(*tags: str) -> dict[str, Any]:
    """How the hub files any sentence-transformers model, with `tags` of its own."""
    return {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction", "sentence-similarity", *tags],
    }


def escape(text: str) -> str:
    """`text` as plain words in Markdown: one line, no markup, no HTML, no table cell's end, nothing that commands a
    terminal."""
    words = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(text.split()))
    return re.sub(r"([\\`*_\[\]<>#|~&!$])", r"\\\1", words)


def _front_matter(
    record: RunRecord, base: BaseCard, scores: Mapping[str, Mapping[str, float]], kinds: Mapping[str, str]
) -> str:
    source = record.recipe.model.source
    # `nano/...` ships with isoembed and a folder is this machine's: neither is a base model that the hub knows
    on_hub = HUB_ID.fullmatch(source) is not None and not source.startswith("nano/")
    data = ModelCardData(
        language=list(base.languages) or None,
        license=base.license,
        **hub_labels("isoembed"),
        base_model=source if on_hub else base.hub_id,
        datasets=list(_datasets_of_older(record) if record.datasets is None else record.datasets) or None,
        model_name=record.recipe.model.name if scores else None,  # the hub's name for whose results these are
        eval_results=[
            EvalResult(
                _TASK_TYPES.get(kinds.get(task, ""), "sentence-similarity"),
                f"local/{_SIGNS.sub(' ', task).replace(' ', '-')}",
                _SIGNS.sub(" ", task),
                metric,
                value,
            )
            for task, found in scores.items()
            for metric, value in found.items()
        ]
        or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _datasets_of_older(record: RunRecord) -> dict[str, None]:
    """The datasets of a record of before these were kept: as its data are called."""
    parts = record.recipe.data.source.split(",")
    return dict.fromkeys(found[1] for part in parts if (found := _DATASET.match(part)))


def _recipe_rows(record: RunRecord) -> list[tuple[str, str]]:
    recipe = record.recipe
    plain = recipe.model.depth is None and recipe.model.file is None
    return [
        (
            "base model",
            f"{recipe.model.name}, {recipe.model.params:,} non-embedding parameters, {recipe.model.embedding_params:,} "
            "in the token table",
        ),
        *([] if plain else [("weights", recipe.model.origin)]),
        ("method", f"{recipe.method.label}, {record.trainable_params:,} parameters trained"),
        ("data", f"{recipe.data.source} (fingerprint {record.data_fingerprint})"),
        ("pairs, tokens seen", f"{record.pairs:,} pairs, {record.tokens:,} tokens in {record.steps:,} steps"),
        *([("hard negatives seen", f"{record.negatives:,}")] if record.negatives else []),
        ("batch", f"{recipe.batch_pairs} pairs, texts cut at {recipe.context_tokens} tokens"),
        ("loss", recipe.objective),
        *([("matryoshka", _MATRYOSHKA)] if recipe.options.matryoshka else []),
        ("pooling", f"{recipe.pooling_in_words}, over the last hidden states, L2-normalised"),
        (
            "optimiser",
            f"AdamW, peak rate {recipe.learning_rate:.3g}, warm-up {recipe.warmup_share:.0%} of the tokens, "
            f"{recipe.fall_in_words} of the peak, weight decay {recipe.weight_decay:g}",
        ),
        *([("average", recipe.average_in_words)] if recipe.average_in_words else []),
        *([("early stopping", str(recipe.early_stopping))] if recipe.early_stopping.evaluates else []),
        *([("weights", f"of step {record.kept_step:,}")] if record.kept_step is not None else []),
        ("seed", str(recipe.seed)),
        ("run", record.key),
    ]


def _cost_rows(record: RunRecord, budget_flop: float | None) -> list[tuple[str, str]]:
    rows = [
        ("model FLOP (C)", f"{record.model_flop:.4g}"),
        *([("teacher FLOP", f"{record.teacher_flop:.4g}")] if record.teacher_flop else []),
        *([("of them", record.inherited.describe())] if record.inherited is not None else []),
        ("hardware FLOP, with padding and recomputation", f"{record.executed_flop:.4g}"),
        ("total FLOP: C with attention and the token table", f"{record.all_in_flop:.4g}"),
        ("wall time", f"{record.wall_seconds:,.0f} s at {record.tokens_per_second:,.0f} tokens/s"),
        ("machine", ", ".join(f"{key} {value}" for key, value in record.machine.items())),
    ]
    return rows if budget_flop is None else [("budget (FLOP)", f"{budget_flop:.4g}"), *rows]


def _score_tables(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """One table a task, a row a system.  A metric that a system does not have is a dash."""
    tables = []
    for task in dict.fromkeys(task for tasks in scores.values() for task in tasks):
        found = {system: tasks[task] for system, tasks in scores.items() if task in tasks}
        metrics = list(dict.fromkeys(metric for values in found.values() for metric in values))
        rows = [
            (system, *(f"{values[metric]:.3f}" if metric in values else "-" for metric in metrics))
            for system, values in found.items()
        ]
        tables.append(f"{escape(task)}\n\n{_table(('system', *metrics), rows)}")
    return "\n\n".join(tables)


def _general_limits(record: RunRecord, base: BaseCard) -> list[str]:
    recipe = record.recipe
    return [
        f"Only the first {recipe.context_tokens} tokens of a text are read.",
        "It knows the languages and subjects of its base model and its training pairs, and carries their biases.",
        f"Trained once, with seed {recipe.seed}: another seed gives somewhat other scores.",
        "Scores are fractions, measured on the tasks named here and nowhere else.",
        *([] if base.license else ["Nobody said here which licence its base model has: look before you publish."]),
        "Before it was published this folder was opened in a new process and compared with the trained model and its "
        "base (certificate.json; `isoembed certify` asks again).",
    ]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(map(escape, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
