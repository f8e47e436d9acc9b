"""The encoder as a sentence-transformers model folder, written by that library's own classes."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from torch import nn

from isoembed.core import InputError, write_atomically
from isoembed.encoder.certificate import (
    ADAPTER,
    CERTIFICATE,
    Certificate,
    ExportError,
    Origin,
    examine,
    examine_afresh,
    trained,
)
from isoembed.encoder.exported import EARLIER_POOLING_KEYS, MODULES, PLAIN_TEXT, POOLING_MODES, SIMILARITY
from isoembed.encoder.statement import Fingerprint, Statement, fingerprints, state
from isoembed.encoder.tokenizer import plain
from isoembed.methods.qlora import unpacked
from isoembed.recipe import Recipe
from isoembed.records import RECORD, RunRecord

if TYPE_CHECKING:
    from isoembed.encoder.embedder import Embedder

#: lists what an export wrote into a folder: that much of it may be replaced by another export
MARKER = "isoembed.json"
#: where an export is written, before it takes the place of an earlier one
STAGE = ".export.partial"


@contextmanager
def scratch_folder(place: Path) -> Iterator[Path]:
    """An empty folder at `place`, gone when the block ends; what a killed process left there is removed."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def export(
    embedder: Embedder,
    folder: Path,
    *,
    card: str,
    record: RunRecord | None = None,
    recipe: Recipe | None = None,
    keep_adapter: bool = False,
    afresh: bool = False,
) -> None:
    """Make `folder` a model: `SentenceTransformer(folder).encode(texts)` gives the vectors of `embedder`, where there
    are prompts `encode_query` and `encode_document` do, or `encode` with `prompt_name` "query" or "document".

    Weights are fp32 safetensors with LoRA merged into them (on a copy: `embedder` stays as it is); `card` becomes
    README.md, `record` record.json; with `keep_adapter` the LoRA adapter alone is kept under `adapter/`.

    Replaces an earlier export and leaves everything else in `folder` alone.  The model is written whole, opened again
    and certified (`isoembed.encoder.certificate`) before the earlier one is touched; a kill while files move leaves a
    folder that is no model, never a mixture of two.

    recipe: what it was trained by; its base, which must be at hand, is compared too.
    afresh: open it in a new process.

    Raises ExportError where tensors, token ids or vectors of the two differ, or nothing was trained, and InputError
    where a file of that name is there and no export wrote it, or there is no adapter to keep.
    """
    encoder = embedder.encoder
    if keep_adapter and not isinstance(encoder.model, PeftModel):
        raise InputError("`keep_adapter` needs a model trained with LoRA, and this one has no adapter; leave it out.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"The model must be written to a folder; {folder} is a file. Name another one.")
    with scratch_folder(folder / STAGE) as stage:
        # 1. Transformer + Pooling + Dense, where there is a projection, + Normalize
        with scratch_folder(stage / ".source") as source:
            weights = _save_source(embedder, source)
            _sentence_transformer(embedder, source).save(str(stage), create_model_card=False)

        _speak_to_servers(stage, POOLING_MODES[encoder.pooling], embedder.context_tokens)

        # 2. what belongs beside it
        (stage / "README.md").write_text(card, encoding="utf-8")
        if record is not None:
            record.save(stage / RECORD)
        if keep_adapter:
            _save_adapter(encoder.model, stage / ADAPTER)

        # 3. is it what was trained?
        stated = state(embedder, weights, stage / ADAPTER if keep_adapter else None)
        if record is not None:
            stated = stated.model_copy(update={"run": record.recipe.key})
        _certify(stage, embedder, weights, recipe, stated, afresh=afresh)
        _publish(stage, folder)


def _certify(
    stage: Path,
    embedder: Embedder,
    weights: Mapping[str, Fingerprint],
    recipe: Recipe | None,
    stated: Statement,
    *,
    afresh: bool,
) -> None:
    """Write the certificate of the model in `stage`; raises ExportError where it fails."""
    file = stage / CERTIFICATE
    file.write_text(Certificate(checks=(), statement=stated).model_dump_json(), encoding="utf-8")
    found = examine_afresh(stage) if afresh else examine(stage)
    if recipe is not None:
        dense = embedder.encoder.dense
        projection = None if dense is None else Fingerprint.of(dense.weight)
        check, untouched = trained(weights, recipe.model.blocks, Origin.of(recipe), projection)
        found = found.model_copy(update={"checks": (*found.checks, check), "untouched": untouched})
    if not found.passed:
        raise ExportError(
            f"The model that is written must be the one that was trained, and is not: {found.failures[0].seen}. "
            "Nothing was replaced, and the training is kept where it has checkpoints; report this with the name of the "
            "base model."
        )
    file.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")


def clear_export(folder: Path) -> None:
    """Remove what a killed export left beside the model in `folder`."""
    shutil.rmtree(folder / STAGE, ignore_errors=True)


def _save_adapter(model: Any, folder: Path) -> None:
    """The adapter alone, with its base by name: a path of this machine leads nobody to it."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's form of a card, empty but for that path
    file = folder / "adapter_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    base = settings["base_model_name_or_path"]
    if base is not None and Path(base).is_absolute():
        settings["base_model_name_or_path"] = Path(base).name
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _save_source(embedder: Embedder, source: Path) -> dict[str, Fingerprint]:
    """Write model and tokenizer to `source` as transformers' own folder; what the tensors are."""
    model = _plain(embedder.encoder.model)
    model.save_pretrained(source)
    saved = plain(embedder.tokenizer)
    saved.padding_side = "right"
    saved.backend_tokenizer.no_truncation()  # how its last texts were cut is no part of it
    saved.backend_tokenizer.no_padding()
    saved.save_pretrained(source)
    return fingerprints(model)


def _sentence_transformer(embedder: Embedder, source: Path) -> SentenceTransformer:
    """The model in `source` as sentence-transformers builds it."""
    transformer = Transformer(
        str(source),
        max_seq_length=embedder.context_tokens,
        **PLAIN_TEXT,
    )
    prompts, mode = embedder.encoder.prompts, POOLING_MODES[embedder.encoder.pooling]
    dense = embedder.encoder.dense
    width = embedder.dimensions if dense is None else dense.in_features
    pooling = Pooling(width, mode, include_prompt=prompts.pooled)
    return SentenceTransformer(
        modules=[transformer, pooling, *([] if dense is None else [_dense(dense)]), Normalize()],
        prompts=prompts.named,
        similarity_fn_name=SIMILARITY,
        device="cpu",
    )


def _dense(projection: nn.Linear) -> Dense:
    """The projection as sentence-transformers has it: no bias, nothing behind it."""
    weight = projection.weight.detach().float().cpu()
    return Dense(
        projection.in_features,
        projection.out_features,
        bias=False,
        activation_function=nn.Identity(),
        init_weight=weight.clone(),
    )


def _speak_to_servers(stage: Path, mode: str, context_tokens: int) -> None:
    """Say where pooling and context lie in the words of sentence-transformers before 5.4 too, which it still reads, and
    what the tokenizer is in those of transformers before 5.

    Servers that look for those words alone (vLLM before its pull request 54533, text-embeddings-inference) would else
    take the last token of a decoder, without a warning, whatever it was trained with.
    """
    modules = json.loads((stage / MODULES).read_text(encoding="utf-8"))
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rpartition('.')[2]}"
    tokenizer_file = stage / modules[0]["path"] / "tokenizer_config.json"
    tokenizer = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    if tokenizer["tokenizer_class"] == "TokenizersBackend":  # names in transformers before 5, which 5 still reads
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    if extra := tokenizer.pop("extra_special_tokens", None):
        tokenizer["additional_special_tokens"] = extra
    pooling_file = stage / modules[1]["path"] / "config.json"
    pooling = json.loads(pooling_file.read_text(encoding="utf-8"))
    pooling |= {key: theirs == mode for theirs, key in EARLIER_POOLING_KEYS.items()}
    settings_file = stage / "sentence_bert_config.json"
    settings = json.loads(settings_file.read_text(encoding="utf-8")) | {
        "max_seq_length": context_tokens,
        "do_lower_case": False,
    }
    for file, content in (
        (stage / MODULES, modules),
        (tokenizer_file, tokenizer),
        (pooling_file, pooling),
        (settings_file, settings),
    ):
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _plain(model: nn.Module) -> Any:
    """The transformers model to save: `model` itself where it is plain fp32, else an fp32 copy with LoRA merged, 4-bit
    weights unpacked first (merged into 4 bits, an adapter would be rounded away)."""
    if isinstance(model, PeftModel):
        merged: Any = unpacked(model)
        model = merged.merge_and_unload()
    is_fp32 = all(parameter.dtype == torch.float32 for parameter in model.parameters())
    return model if is_fp32 else copy.deepcopy(model).float()


def _publish(stage: Path, folder: Path) -> None:
    """Move everything in `stage` into `folder`, in place of what an earlier export moved there."""
    earlier = _entries(folder)
    names = sorted({entry.name for entry in stage.iterdir()} | {MARKER}, key=lambda name: (name == MODULES, name))
    foreign = [name for name in names if name not in earlier and (folder / name).exists()]
    if foreign:
        raise InputError(
            f"The model must not replace files that no export wrote; {folder} holds {', '.join(foreign)}. "
            "Name another folder, or move them away."
        )
    write_atomically(folder / MARKER, json.dumps(sorted({*earlier, *names})) + "\n")
    for name in sorted(earlier - {MARKER}, key=lambda name: name != MODULES):
        if (folder / name).is_dir() and not (folder / name).is_symlink():  # a link goes, what it leads to stays
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    for name in names:
        if name != MARKER:
            (stage / name).rename(folder / name)
    write_atomically(folder / MARKER, json.dumps(names) + "\n")


def _entries(folder: Path) -> set[str]:
    """What an earlier export wrote into `folder`: names of entries right in it, never paths that lead elsewhere."""
    try:
        names = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    plain = isinstance(names, list) and all(
        isinstance(name, str) and Path(name).name == name not in ("", "..") for name in names
    )
    return set(names) if plain else set()
