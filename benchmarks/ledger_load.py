"""How long does a ledger of 10,000 runs take to write and to read?

    python benchmarks/ledger_load.py [--runs 10000]     prints JSON; writes benchmarks/results/ledger_load.json

The runs are real records of the nano study, each under many seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from isoembed.core import write_atomically
from isoembed.records import Ledger

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    records = Ledger.open(RESULTS / "nano_study.jsonl.gz").records()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder))
        begun = time.perf_counter()
        for seed, record in enumerate(islice(cycle(records), runs), 1000):
            recipe = record.recipe.model_copy(update={"seed": seed})
            ledger.add(record.model_copy(update={"recipe": recipe, "key": recipe.key}))
        written = time.perf_counter()
        read = []
        for _ in range(3):
            started = time.perf_counter()
            assert len(ledger.records()) == runs
            read.append(round(time.perf_counter() - started, 3))
        size = sum(file.stat().st_size for file in (Path(folder) / "records").iterdir())
        packed = Path(folder) / "all.jsonl.gz"
        ledger.export(packed, ledger.outcomes())
        started = time.perf_counter()
        assert len(Ledger.open(packed).records()) == runs
        result = {
            "runs": runs,
            "write_seconds": round(written - begun, 2),
            "read_seconds": read,
            "bytes_a_record": size // runs,
            "packed_bytes": packed.stat().st_size,
            "packed_read_seconds": round(time.perf_counter() - started, 3),
        }
    print(json.dumps(result))
    write_atomically(RESULTS / "ledger_load.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
