"""Folders and names made to mislead: weights that lie, links that lead elsewhere, ids that climb."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from isoembed.core import InputError
from isoembed.encoder.config import resolve
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.exported import load_exported
from isoembed.encoder.load import load_model
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.sweep.folder import SweepFolder
from isoembed.training.callbacks import MetricsFile
from isoembed.workflows.search import Index
from tests.commands import command
from tests.evaluation.tiny import write_model


def _other_shape(file: Path) -> None:
    """Honest bytes of another shape."""
    tensors = load_file(file)
    name = max(tensors, key=lambda name: tensors[name].ndim)
    save_file({**tensors, name: tensors[name].flatten()}, file, metadata={"format": "pt"})


def _fewer(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop(max(tensors, key=lambda name: tensors[name].numel()))
    save_file(tensors, file, metadata={"format": "pt"})


def _rewrite(file: Path, change: Callable[[dict[str, dict[str, list[int]]]], None]) -> None:
    """Change the header and leave the bytes."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    packed = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(packed)) + packed + content[8 + length :])


def _shape_beyond_bytes(file: Path) -> None:
    def change(header: dict[str, dict[str, list[int]]]) -> None:
        next(value for name, value in header.items() if name != "__metadata__")["shape"] = [2**40, 2**20]

    _rewrite(file, change)


def _offsets_beyond_end(file: Path) -> None:
    def change(header: dict[str, dict[str, list[int]]]) -> None:
        next(value for name, value in header.items() if name != "__metadata__")["data_offsets"] = [0, 2**50]

    _rewrite(file, change)


def _huge_header(file: Path) -> None:
    file.write_bytes(struct.pack("<Q", 2**62) + file.read_bytes()[8:])


def _truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


LIES = [_other_shape, _fewer, _shape_beyond_bytes, _offsets_beyond_end, _huge_header, _truncated]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_base_weights_that_lie_are_refused(tmp_path: Path, lie: Callable[[Path], None]) -> None:
    folder = write_model(tmp_path / "base")
    lie(folder / "model.safetensors")
    with pytest.raises(InputError, match="weights"):
        load_model(str(folder))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with an index in it."""
    base = str(write_model(tmp_path_factory.mktemp("base")))
    folder = tmp_path_factory.mktemp("exported") / "model"
    Embedder(Encoder(load_model(base), "mean"), load_tokenizer(base), 16).save(folder, card="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOEMBED_CACHE", str(folder.parent / "cache"))
        Index.build(folder, [("a", "one text"), ("b", "another text")])
    (index,) = (folder.parent / "cache" / "index").iterdir()
    index.rename(folder / "index")  # as folders that somebody else made may have it
    return folder


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_exported_weights_that_lie_are_refused(exported: Path, lie: Callable[[Path], None]) -> None:
    file = exported / "model.safetensors"
    honest = file.read_bytes()
    try:
        lie(file)
        with pytest.raises(InputError, match="model"):
            load_exported(exported)
    finally:
        file.write_bytes(honest)


@pytest.mark.parametrize("path", ["..", "../elsewhere", "/etc", "1_Pooling/.."])
def test_modules_elsewhere_are_refused(exported: Path, path: str) -> None:
    file = exported / "modules.json"
    honest = file.read_text()
    try:
        file.write_text(json.dumps([{**module, "path": path} for module in json.loads(honest)]))
        with pytest.raises(InputError, match="damaged"):
            load_exported(exported)
    finally:
        file.write_text(honest)


@pytest.mark.parametrize("shape", [(2, 3), (2,), (2, 16, 1)])
def test_an_index_of_another_shape_is_refused(
    exported: Path, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOEMBED_CACHE", str(tmp_path))  # where no other test has left an index of the same model
    file = exported / "index" / "embeddings.safetensors"
    honest = file.read_bytes()
    try:
        save_file({"embedding": torch.zeros(shape)}, file)
        with pytest.raises(InputError, match="damaged"):
            Index.load(exported)
    finally:
        file.write_bytes(honest)


@pytest.mark.parametrize(
    "name",
    ["nano/../nano-28k", "nano/../../laws", "nano/", "nano/nano-28k/..", "nano//nano-28k", "../../etc", "/etc", "~/x",
     "~nobody-here/x", "a/b/c", "org/..", "org/na me", "org\\name", "x" * 300, "-", "", " ", "org/name@{1}"],
)  # fmt: skip
def test_ids_with_path_tricks_open_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "inside").mkdir()
    done = command("models", f"--model={name}", inside=tmp_path / "inside")
    assert done.status == 2
    assert done.err.startswith("isoembed: ")


def test_a_nano_model_keeps_its_name() -> None:
    assert resolve("nano/nano-28k").endswith("nano-28k")


def test_an_export_follows_no_link_out_of_its_folder(exported: Path, tmp_path: Path) -> None:
    """What an earlier export wrote was replaced by links: they go, what they lead to stays."""
    base = str(write_model(tmp_path / "base"))
    encoder, tokenizer = Encoder(load_model(base), "mean"), load_tokenizer(base)
    folder, precious = tmp_path / "out", tmp_path / "precious"
    Embedder(encoder, tokenizer, 16).save(folder, card="first")
    precious.mkdir()
    (precious / "file").write_text("mine")
    for name in ("1_Pooling", "README.md"):
        target = precious if (folder / name).is_dir() else precious / "file"
        (folder / name).rename(tmp_path / f"moved-{name}")
        (folder / name).symlink_to(target)
    Embedder(encoder, tokenizer, 16).save(folder, card="second")
    assert (precious / "file").read_text() == "mine"
    assert (folder / "README.md").read_text() == "second"
    load_exported(folder)


def test_a_link_in_place_of_a_file_that_is_written_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine\n")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "precious")
    MetricsFile(tmp_path / "metrics.jsonl").start(None, 0, 0)  # type: ignore[arg-type] # it does not look at the recipe
    assert (tmp_path / "precious").read_text() == "mine\n"
    assert not (tmp_path / "metrics.jsonl").is_symlink()


@pytest.mark.parametrize("key", ["../../x", "/etc/passwd", "..", ""])
def test_a_runs_file_name_is_not_its_key(tmp_path: Path, key: str) -> None:
    """Keys are hashes of what the run holds; a name on the command line is looked up among them."""
    (tmp_path / "sweep.json").write_text("{")
    assert command("sweep", "show", ".", key or "--", inside=tmp_path).status == 2
    assert SweepFolder(tmp_path).runs() == []
