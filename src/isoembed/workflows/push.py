"""`isoembed push`: a model folder on the hub, after a look at all that would be published with it."""

from __future__ import annotations

import fnmatch
import getpass
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from safetensors import safe_open

from isoembed.core import InputError, Summarised, checked, expanded, write_atomically
from isoembed.encoder.card import FOLDER
from isoembed.encoder.exported import MODULES
from isoembed.hub import is_reachable
from isoembed.workflows.benchmark import RESULTS
from isoembed.workflows.certify import certify

#: what a model folder may hold, by the names that isoembed, sentence-transformers, transformers and tokenizers give it,
#: whatever folder of it they lie in; everything else could be data
_PARTS = (
    *("config.json", "generation_config.json", "config_sentence_transformers.json", "sentence_*_config.json"),
    *("modules.json", "model*.safetensors", "model.safetensors.index.json", "adapter_config.json"),
    *("adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model"),
    *("sentencepiece.bpe.model", "chat_template.jinja", "README.md", "LICENSE*", "NOTICE*", ".gitattributes"),
    *("record.json", "recipe.json", "scores.json", "certificate.json", "isoembed.json", "pretraining.json"),
)
#: their words are a vocabulary's: only a whole path says anything of this machine
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "*.model", "added_tokens.json")
#: a path from the root of some machine, on whatever system; not the path of an address
_PLACE = re.compile(
    r"(?<![\w/:.~-])(?:/(?:home|Users|root|tmp|var|mnt|media|data|work|workspace|scratch|opt|srv|usr|private|gpfs|lustre|"
    r"nfs|content|kaggle|dbfs|Volumes)/[\w.@~-]+|[A-Za-z]:\\{1,2}\w+)"
)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
#: names that machines and their users have by default: they say nothing of anybody
_COMMON = {"admin", "app", "docker", "jovyan", "localhost", "nobody", "root", "runner", "ubuntu", "user", "worker"}


class PublishedFile(Summarised):
    """A file as it lies in the repository."""

    path: str
    bytes: int

    def summary(self) -> dict[str, str]:
        return {"path": self.path, "bytes": f"{self.bytes:,}"}


class Publication(Summarised):
    """What is published where."""

    repository: str
    private: bool
    files: tuple[PublishedFile, ...]
    checks: int  #: of the certificate, all passed
    remarks: tuple[str, ...] = ()  #: what its card lacks
    url: str | None = None  #: None: nothing was published yet

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def summary(self) -> dict[str, str]:
        return {"repository": self.repository, "files": str(len(self.files)), "url": self.url or "not published"}


@checked
def push(folder: str | Path, repository: str, *, private: bool = False, dry_run: bool = False) -> Publication:
    """Publish the model in `folder` as `repository`, ORG/NAME on the hub, and let its card name it.

    First it is looked at: nothing but a model's parts, safetensors alone, no absolute path, no name of this machine or
    its user, no access token in any file, and every check of `isoembed.certify` passes.  The results of an evaluation
    by the MTEB library, in mteb/, stay here.
    private: the repository is seen by those alone who may; a public one is not made private, but refused.
    dry_run: nothing is asked of the hub, and nothing written.
    Raises InputError where the look, the name, the token or the hub says no.
    """
    folder = expanded(folder)
    _check_name(repository)
    found = _look(folder, repository, private=private)
    if dry_run:
        return found
    if huggingface_hub.get_token() is None:
        raise InputError("A token of the hub's that may write is needed: `hf auth login`, or set HF_TOKEN to one.")
    try:
        return found.model_copy(update={"url": _publish(folder, found)})
    except InputError:
        raise
    except Exception as error:  # the hub client's errors share no base class
        reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        if not is_reachable():
            reason = "it cannot be reached"
        raise InputError(
            f"The hub did not take {repository}: {reason}. Check the network, and that the token may write to "
            f"{repository.split('/')[0]}; pushing again is safe."
        ) from error


def _publish(folder: Path, found: Publication) -> str:
    """The address of what was published."""
    api = huggingface_hub.HfApi()
    api.create_repo(found.repository, private=found.private or None, exist_ok=True)
    if found.private and not api.repo_info(found.repository).private:
        raise InputError(f"{found.repository} is there already and public; make it private there, or name another.")
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8")
        named = text.replace(f'"{FOLDER}"', f'"{found.repository}"')
        if named != text:
            write_atomically(card, named)
    api.upload_folder(
        folder_path=folder,
        repo_id=found.repository,
        allow_patterns=[file.path for file in found.files],
        commit_message="Model, card, record and certificate",
    )
    return f"{api.endpoint}/{found.repository}"


def _check_name(repository: str) -> None:
    try:
        validate_repo_id(repository)
        if repository.count("/") != 1:
            raise ValueError("it has no organisation or user")
    except (HFValidationError, ValueError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise InputError(
            f"`repository` must be ORG/NAME, as acme/my-embedder; got {repository!r} ({reason})."
        ) from None


def _look(folder: Path, repository: str, *, private: bool) -> Publication:
    """All that would be published; raises InputError for what should not be."""
    if not (folder / MODULES).is_file():
        raise InputError(f"A model folder must hold {MODULES}; {folder} does not. Name what `run` or `train` wrote.")
    files = sorted(
        file
        for file in folder.rglob("*")
        if (not file.is_dir() or file.is_symlink()) and file.relative_to(folder).parts[0] != RESULTS
    )
    strange = [
        name
        for file in files
        if (name := str(file.relative_to(folder)))
        and (file.is_symlink() or not any(fnmatch.fnmatchcase(file.name, part) for part in _PARTS))
    ]
    if strange:
        some = ", ".join(strange[:5]) + (f" and {len(strange) - 5} more" if strange[5:] else "")
        raise InputError(
            f"Only a model's own parts are published, and weights as safetensors; {folder} also holds {some}. Move "
            "them elsewhere."
        )
    for file in files:
        if (told := next(_told(file, folder, repository), None)) is not None:
            raise InputError(f"{file.relative_to(folder)} would publish {told}. Take it out of that file.")
    card = _card(folder)
    certificate = certify(folder)
    if not certificate.passed:
        failed = certificate.failures[0]
        raise InputError(f"{folder} does not pass `isoembed certify` ({failed.name}: {failed.seen}). Export it anew.")
    return Publication(
        repository=repository,
        private=private,
        files=tuple(PublishedFile(path=str(file.relative_to(folder)), bytes=file.stat().st_size) for file in files),
        checks=sum(check.passed is True for check in certificate.checks),
        remarks=() if card.get("license") else ("its card names no licence: add `license` to the head of README.md",),
    )


def _card(folder: Path) -> dict[str, Any]:
    """The head of the model card, as the hub reads it."""
    file = folder / "README.md"
    try:
        card: Any = ModelCard(file.read_text(encoding="utf-8")) if file.is_file() else None
    except Exception as error:  # of YAML's parser, or of the library's rules
        reason = " ".join(str(error).split())
        raise InputError(f"{file} must begin with the YAML that the hub reads ({reason}). Mend it.") from None
    return {} if card is None else dict(card.data.to_dict())


def _told(file: Path, folder: Path, repository: str) -> Iterator[str]:
    """What `file` says of this machine and who uses it."""
    text = _text(file)
    here = {str(folder.absolute()), str(folder.resolve()), str(Path.home()), str(Path.cwd())}
    # of one part, as /root, a path is a word of any vocabulary
    if own_place := next((place for place in sorted(here) if place.count("/") > 1 and place in text), None):
        yield f"the path {own_place} of this machine"
    if found := _TOKEN.search(text):
        yield f"an access token ({found[0][:6]}...)"
    if any(fnmatch.fnmatchcase(file.name, each) for each in _VOCABULARIES):
        return
    if found := _PLACE.search(text):
        yield f"a path of some machine ({found[0]})"
    for name, what in ((socket.gethostname(), "this machine"), (_user(), "its user")):
        own = name.lower() in _COMMON or name in repository.split("/")
        if len(name) > 2 and not own and re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text):
            yield f"the name of {what} ({name})"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return ""


def _text(file: Path) -> str:
    """What people may read in `file`: of weights the notes at their head."""
    if file.suffix != ".safetensors":
        text = file.read_text(encoding="utf-8", errors="replace")
        return text + text.replace("\\/", "/") + re.sub(r"\\([_.~#-])", r"\1", text)  # as JSON and Markdown write it
    try:
        with safe_open(file, "pt") as stored:
            return str(stored.metadata() or "")
    except Exception as error:  # of a library in Rust
        raise InputError(f"{file} cannot be read as safetensors ({error}). Export the model anew.") from None
