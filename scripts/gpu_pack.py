"""Pack what the GPU campaign needs into parts that fit a trip each, for a machine without a network.

    python scripts/gpu_pack.py --model MODEL --pairs DIR --tasks DIR --wheels DIR --out build/gpu
    ... carry OUT/trip-1, OUT/trip-2, ... there, each beside this project's tree ...
    python OUT/trip-N/join.py OUT                on that machine: checks the parts, unpacks OUT/payload

MODEL is a Llama's GGUF or a folder of transformers.  DIR of pairs holds NAME.jsonl.gz; they travel as token ids,
without their texts.  DIR of tasks holds KIND/NAME.  DIR of wheels holds what the machine lacks, for its Python
(`pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 -d DIR NAME`).
What is at OUT already is not made again; --fresh makes all of it anew.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from isoembed.data.dataset import prepare  # noqa: E402
from isoembed.encoder.tokenizer import load_tokenizer  # noqa: E402
from travel import compact_model, compact_pairs  # noqa: E402

MIB = 2**20
#: what is scored after each run of the study, of --tasks
TASKS = ("sts/stsbenchmark", "retrieval/stackfaq", "retrieval/cranfield")
JOIN = '''"""Put the parts together and unpack them: python join.py FOLDER, which holds the trips."""
import hashlib, json, sys, tarfile, zipfile
from pathlib import Path

folder, facts = Path(sys.argv[1]), json.loads(Path(__file__).with_name("parts.json").read_text())
archive, digest = folder / "payload.tar", hashlib.sha256()
with archive.open("wb") as whole:
    for part in facts["parts"]:
        content = (folder / part["file"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != part["sha256"]:
            sys.exit(f"{part['file']} is not what was packed; bring it again")
        whole.write(content)
        digest.update(content)
if digest.hexdigest() != facts["sha256"]:
    sys.exit("the parts do not add up to what was packed; bring all of them again")
with tarfile.open(archive) as files:
    files.extractall(folder / "payload", filter="data")
for wheel in (folder / "payload").glob("wheels/*.whl"):
    zipfile.ZipFile(wheel).extractall(folder / "payload" / "site")
archive.unlink()
print(f"unpacked {folder / 'payload'}; PYTHONPATH={folder / 'payload' / 'site'}:src")
'''


def packed_pairs(pairs: Path, most: int, context: int, model: Path, work: Path, file: Path) -> str:
    """Tokenise the sources in `pairs`, at most `most` pairs of each, and write them to `file`; says what they are."""
    sources = sorted(pairs.glob("*.jsonl.gz"))
    if not sources:
        sys.exit(f"`--pairs` must hold NAME.jsonl.gz; {pairs} does not.")
    # a mixture ends with the first source that does: each weighs what it gives
    counts = {source: gzip.decompress(source.read_bytes()).count(b"\n") for source in sources}
    spec = ",".join(f"{source.absolute()}:{min(count, most)}" for source, count in counts.items())
    data = prepare(spec, load_tokenizer(str(model)), context_tokens=context, folder=work / "tokens")
    compact_pairs(data, f"a mixture of {len(sources)} public pair sources", file)
    tokens = len(data.train) * data.stats.tokens_per_pair
    return f"{len(data.train):,} training pairs of {tokens:.3g} tokens, {len(data.heldout):,} held out"


def archived(payload: Path, file: Path) -> None:
    """One archive of everything, the same bytes for the same content."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(file, "w") as archive:
        for each in sorted(payload.iterdir()):
            archive.add(each, each.name, filter=plain)


def tree_bytes() -> int:
    """Of this project's files, tracked and new ones, which travel on every trip."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    return sum((ROOT / name).stat().st_size for name in listed if name and (ROOT / name).is_file())


def split(file: Path, room: int, out: Path) -> list[Path]:
    """Cut `file` into as few parts of at most `room` bytes as will do, evenly, a folder a trip; the last one has what
    puts them together."""
    content = file.read_bytes()
    trips = max(1, math.ceil(len(content) / room))
    each = math.ceil(len(content) / trips)
    parts, folders = [], []
    for number in range(1, trips + 1):
        folder = out / f"trip-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        part = content[(number - 1) * each : number * each]
        (folder / "part").write_bytes(part)
        parts.append({"file": f"trip-{number}/part", "sha256": hashlib.sha256(part).hexdigest()})
        folders.append(folder)
    facts = {"parts": parts, "sha256": hashlib.sha256(content).hexdigest()}
    (folders[-1] / "parts.json").write_text(json.dumps(facts, indent=1) + "\n")
    (folders[-1] / "join.py").write_text(JOIN)
    return folders


def pack(given: argparse.Namespace) -> None:
    payload, work = given.out / "pack", given.out / "work"
    if given.fresh:
        shutil.rmtree(payload, ignore_errors=True)
    payload.mkdir(parents=True, exist_ok=True)
    if not (payload / "model").is_dir():
        compact_model(given.model, work / "model")
        (work / "model").rename(payload / "model")
    if not (payload / "pairs.npz.xz").is_file():
        partial = work / "pairs.npz.xz"
        print(packed_pairs(given.pairs, given.most, given.context_tokens, payload / "model", work, partial))
        partial.rename(payload / "pairs.npz.xz")
    for place, names in ((given.tasks, TASKS), (given.wheels, ("",))):
        for name in names if place is not None else ():
            target = payload / ("tasks" if place is given.tasks else "wheels") / name
            shutil.copytree(place / name, target, dirs_exist_ok=True)
    archive = given.out / "payload.tar"
    archived(payload, archive)
    tree = tree_bytes()
    room = int(given.trip_mib * MIB) - tree - 65536
    if room <= 0:
        sys.exit(f"`--trip-mib` must hold more than the project's own {tree / MIB:.1f} MiB; got {given.trip_mib:g}.")
    for old in given.out.glob("trip-*"):
        shutil.rmtree(old)
    folders = split(archive, room, given.out)
    archive.unlink()
    for each in sorted(payload.iterdir()):
        files = [each] if each.is_file() else [file for file in each.rglob("*") if file.is_file()]
        print(f"{each.name:14}{sum(file.stat().st_size for file in files) / MIB:8.1f} MiB")
    for folder in folders:
        own = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{folder.name:14}{own / MIB:8.1f} MiB, {(own + tree) / MIB:.1f} MiB with the project's {tree / MIB:.1f}")
    print("\nOn the machine, in the project's root, after each trip has been carried there:")
    print(f"  python {folders[-1] / 'join.py'} {given.out}")
    site, run = given.out / "payload" / "site", given.out / "run"
    print(
        f"  PYTHONPATH={site}:src python scripts/gpu_campaign.py --minutes 8 --payload {given.out}/payload --out {run}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a Llama's GGUF, or a folder of transformers")
    parser.add_argument("--pairs", type=Path, required=True, help="folder of NAME.jsonl.gz")
    parser.add_argument("--most", type=int, default=40_000, help="pairs of a source at most")
    parser.add_argument("--context-tokens", type=int, default=75)
    parser.add_argument("--tasks", type=Path, help=f"folder of {', '.join(TASKS)}")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that the machine lacks")
    parser.add_argument("--trip-mib", type=float, default=60.0, help="what a trip may hold, with the project's tree")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="a folder that git ignores")
    parser.add_argument("--fresh", action="store_true", help="make everything anew")
    pack(parser.parse_args())


if __name__ == "__main__":
    main()
