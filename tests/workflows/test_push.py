"""`isoembed push`: what leaves this machine is a model and nothing else, and every refusal is one line."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from isoembed.workflows import push as pushing
from tests.commands import Outcome, command
from tests.data.helpers import write_jsonl
from tests.evaluation.tiny import write_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained model, `out`."""
    inside = tmp_path_factory.mktemp("pushed")
    rows = [{"query": f"what is item {n}?", "pos": f"item {n} costs {n * 7} coins"} for n in range(60)]
    asked = [f"--model={write_model(inside / 'base')}", f"--data={write_jsonl(inside / 'pairs.jsonl', rows)}"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(inside))
        done = command(
            *("run", "--budget=3e8", "--method=lora", "--batch-pairs=8", "--context-tokens=16", "--keep-adapter"),
            *(*asked, "--out=out"),
            inside=inside,
        )
    assert not done.status, done.err
    return inside / "out"


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "out")
    return tmp_path / "out"


class Api:
    """The hub's client, which remembers what it was asked; `fails` says with what."""

    endpoint = "https://hub.example"

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.public = False
        self.fails: Exception | None = None

    def create_repo(self, repo_id: str, **options: Any) -> None:
        if self.fails is not None:
            raise self.fails
        self.asked.append((repo_id, options))

    def repo_info(self, repo_id: str) -> Any:
        return type("Info", (), {"private": not self.public})

    def upload_folder(self, *, repo_id: str, **options: Any) -> None:
        options["card"] = (Path(options["folder_path"]) / "README.md").read_text()
        self.asked.append((repo_id, options))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    found = Api()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    monkeypatch.setattr(pushing, "is_reachable", lambda: True)
    return found


def _push(folder: Path, *more: str, name: str = "acme/embedder") -> Outcome:
    return command("push", str(folder), name, *more, inside=folder.parent)


def _refused(done: Outcome, *words: str) -> None:
    assert done.status == 2, done.out + done.err
    assert done.err.count("\n") == 1
    for word in words:
        assert word in done.err


def test_what_is_listed_is_what_is_published(folder: Path, api: Api) -> None:
    """The dry run lists each file with its size and asks nobody; the upload sends these and no other."""
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    done = _push(folder, "--dry-run", "--json")
    assert not done.status, done.err
    listed = json.loads(done.out)
    assert {folder / file["path"]: file["bytes"] for file in listed["files"]} == {
        file: len(content) for file, content in before.items()
    }
    assert listed["url"] is None
    assert not api.asked
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    assert listed["remarks"] == ["its card names no licence: add `license` to the head of README.md"]
    assert f"{len(before)} files" in _push(folder, "--dry-run").out

    done = _push(folder)
    assert not done.status, done.err
    assert "https://hub.example/acme/embedder" in done.out
    results = folder / "mteb" / "results"  # of an evaluation: the model could not be published any more
    results.mkdir(parents=True)
    (results / "task.json").write_text("{}")
    again = _push(folder, "--dry-run", "--json")
    results.parent.rename(folder.parent / "mteb")
    assert [file["path"] for file in json.loads(again.out)["files"]] == [file["path"] for file in listed["files"]]
    (made, options), (sent, upload) = api.asked
    assert made == sent == "acme/embedder"
    assert options["private"] is None
    assert upload["allow_patterns"] == [file["path"] for file in listed["files"]]
    assert 'SentenceTransformer("acme/embedder")' in upload["card"]


def test_private_is_never_public(folder: Path, api: Api) -> None:
    """`create_repo` leaves a repository that is there as it is: a public one would show what was to be private."""
    assert not _push(folder, "--private").status
    assert api.asked[0][1]["private"] is True
    api.asked.clear()
    api.public = True
    _refused(_push(folder, "--private"), "there already and public")
    assert len(api.asked) == 1  # nothing was uploaded


def _add(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return write


def _say(name: str, text: str) -> Callable[[Path], None]:
    """`text` in a file that may say something."""

    def write(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {"note": text}))

    return write


def _card(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        file = folder / "README.md"
        file.write_text(f"{file.read_text()}\n{text}\n")

    return write


def _broken_head(folder: Path) -> None:
    file = folder / "README.md"
    file.write_text(file.read_text().replace("---\n", "---\nlicense: [\n", 1))


def _linked(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere")
    (folder / "model.safetensors").symlink_to(folder.parent / "elsewhere")


def _edited(folder: Path) -> None:
    file = folder / "1_Pooling" / "config.json"
    modes = {"pooling_mode": "lasttoken", "pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}
    file.write_text(json.dumps(json.loads(file.read_text()) | modes))


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (_add("pairs.jsonl", "{}"), "pairs.jsonl"),
        (_add("pytorch_model.bin", "x"), "pytorch_model.bin"),
        (_add("training/notes.txt", "x"), "training/notes.txt"),
        (_add(".env", "x"), ".env"),
        (_add("modeling_x.py", "x"), "modeling_x.py"),
        (_linked, "model.safetensors"),
        (_card("made in FOLDER"), "README.md"),
        (_card("made in /home/somebody/models"), "/home/somebody"),
        (_card("made in C:\\Users\\somebody"), "C:\\Users"),
        (_say("config.json", "/data/x/base"), "/data/x"),
        (_say("tokenizer_config.json", "FOLDER"), "tokenizer_config.json"),
        (_say("tokenizer.json", "FOLDER"), "tokenizer.json"),
        (_say("scores.json", "run on HOST"), "name of this machine"),
        (_say("adapter/adapter_config.json", "by USER"), "name of its user"),
        (_card("token hf_" + "x" * 34), "access token"),
        (_edited, "certify"),
        (_broken_head, "must begin with the YAML"),
        (lambda folder: (folder / "modules.json").unlink(), "modules.json"),
    ],
)
def test_what_should_not_leave_is_refused(
    spoil: Callable[[Path], None], word: str, folder: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "annas-desk")
    monkeypatch.setattr(getpass, "getuser", lambda: "anna7")
    spoil(folder)
    for file in folder.rglob("*"):
        if file.suffix in (".json", ".md"):
            text = file.read_text().replace("in FOLDER", f"in {folder}").replace(': "FOLDER"', f': "{folder}"')
            file.write_text(text.replace("HOST", "annas-desk").replace("USER", "anna7"))
    _refused(_push(folder, "--dry-run"), word)
    assert not api.asked


def test_common_names_and_the_repositorys_own_say_nothing(
    folder: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who works as root, or pushes to an account of the name, is not refused for words of the card."""
    _card("the root of it, by acme; tokens/s, https://hub.example/data/sets/x")(folder)
    for user in ("root", "acme"):
        monkeypatch.setattr(getpass, "getuser", lambda user=user: user)
        assert not _push(folder, "--dry-run").status


@pytest.mark.parametrize("name", ["embedder", "a/b/c", "acme/", "acme/two words", "acme/x--y", "../x"])
def test_a_bad_name_is_refused(name: str, folder: Path, api: Api) -> None:
    _refused(_push(folder, name=name), "ORG/NAME")
    assert not api.asked


def test_what_the_hub_says_no_to(folder: Path, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.fails = RuntimeError("403 Forbidden: no rights\n\nmore")
    _refused(_push(folder), "403 Forbidden: no rights", "may write to acme")
    monkeypatch.setattr(pushing, "is_reachable", lambda: False)
    api.fails = OSError("a long tale of sockets")
    _refused(_push(folder), "cannot be reached")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    _refused(_push(folder), "hf auth login")
    assert 'SentenceTransformer("FOLDER")' in (folder / "README.md").read_text()  # it names no place where it is not
