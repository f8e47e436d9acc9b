"""A teacher: an embedding model, opened, measured and hashed, that another one is to learn from."""

from __future__ import annotations

from pathlib import Path

from isoembed.core import InputError, checked, expanded
from isoembed.encoder.config import resolve
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import base_of
from isoembed.encoder.exported import MODULES, load_exported
from isoembed.encoder.shapes import spec_of
from isoembed.hub import hub_or_cache
from isoembed.options import Teacher, TeacherLoss

#: what is fetched of a hub's model: no pickles, no code
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")


@checked
def teacher(source: str | Path, *, loss: TeacherLoss = "cosine", weight: float = 1.0) -> Teacher:
    """The embedding model in a sentence-transformers folder, or of that hub id, as a teacher for `Options`.

    loss: `cosine`, `mse` or `kl`; see `isoembed.training.distillation`.
    weight: of that loss; the contrastive one has the rest.
    Raises InputError where there is no such model.
    """
    embedder = open_teacher(str(source))
    model = base_of(embedder.encoder.model)
    return Teacher(
        source=str(source),
        weights=embedder.identity,
        params=spec_of(model, str(source), str(source)).params,
        width=embedder.dimensions,
        context=embedder.context_tokens,
        loss=loss,
        weight=weight,
    )


def open_teacher(source: str, *, known: Teacher | None = None) -> Embedder:
    """The embedder at `source`; raises InputError where there is none, or it is another one than the `known`."""
    embedder = Embedder(*load_exported(_folder(source)))
    if known is not None and embedder.identity != known.weights:
        raise InputError(
            f"The teacher {source} is not the one that the recipe was made for: its weights, its configuration or how "
            "it reads texts have changed. Put that one there, or make the recipe anew."
        )
    return embedder


def _folder(source: str) -> Path:
    """Where the teacher lies, fetched from the hub where it is an id."""
    if (folder := expanded(source)).exists():
        if not (folder / MODULES).is_file():
            raise InputError(
                f"`teacher` must be a sentence-transformers model, with a {MODULES}; {source} is none. Name another "
                "folder or hub id."
            )
        return folder
    place = resolve(source, "teacher")
    if Path(place).is_dir():  # a nano model, not trained to embed
        raise InputError(
            f"`teacher` must be a sentence-transformers model; {source} is a base model. Name another one."
        )
    from huggingface_hub import snapshot_download

    try:
        with hub_or_cache(source):
            return Path(snapshot_download(source, allow_patterns=list(_FILES)))
    except Exception as error:  # the client's errors are those of whichever library it is built on
        raise InputError(
            f"`teacher` must be a folder, or the hub id of a sentence-transformers model; {source!r} cannot be "
            f"fetched ({type(error).__name__}). Name a folder, or go online."
        ) from None
