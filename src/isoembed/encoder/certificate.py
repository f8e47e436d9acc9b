"""A certificate: a model folder opened afresh, and whether it is the model that it should be.

It is compared with what its writer stated (`isoembed.encoder.statement`), with the record of its training, and with the
base model that it was trained from.  Complaints about trainers are mostly of models that come out untrained, cut or
with another pooling; each of those is a check here.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedTokenizerBase

from isoembed.core import InputError, Summarised, checked, expanded, first_line
from isoembed.encoder.checks import not_finite, some
from isoembed.encoder.computing import CAUSAL, computing, first_apart
from isoembed.encoder.dense import encoder_of
from isoembed.encoder.encoder import looks_back_only
from isoembed.encoder.exported import (
    EARLIER_POOLING_KEYS,
    POOLING_MODES,
    SIMILARITY,
    check_linear,
    dense_of,
    json_of,
    module_folders,
    open_sentence_transformer,
)
from isoembed.encoder.load import load_base, looks_ahead
from isoembed.encoder.statement import (
    ADAPTER_FILES,
    Fingerprint,
    Probe,
    Reading,
    Statement,
    Written,
    adapter_digest,
    base_ids_apart,
    fingerprints,
    ids_apart,
    probed,
    tokenizer_of,
    vectors_apart,
    words_apart,
    words_digest,
)
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.methods import Adapters
from isoembed.methods.parts import blocks_of
from isoembed.recipe import Recipe
from isoembed.records import RECIPE, RECORD, RunRecord

CERTIFICATE = "certificate.json"
#: the folder of an adapter that is kept beside the model
ADAPTER = "adapter"
#: texts of several lengths that have little in common
_UNLIKE = (
    "open it",
    "how do I read a file line by line?",
    "The river rose by two metres in one night, and the old bridge did not hold.",
)
#: the longest difference between the unit vectors of a text alone and beside others, in fp32 on the CPU
_BESIDE = 1e-3
#: fields of a configuration in which a model may differ from its base: they are looked at by themselves
_CHANGED = ("num_hidden_layers", "n_layer", "num_layers", "vocab_size", CAUSAL)
_LIBRARIES = ("isoembed", "torch", "transformers", "tokenizers", "sentence-transformers")


class ExportError(InputError):
    """What was written differs from what was trained; a fault of the program or its libraries."""

    exit_code = 1


class ModelCheck(Summarised):
    """One question to a model folder."""

    name: str
    passed: bool | None  #: None: there is nothing here to compare with
    seen: str

    def summary(self) -> dict[str, str]:
        return {"check": self.name, "passed": {True: "yes", False: "NO", None: "-"}[self.passed], "seen": self.seen}


class Certificate(Summarised):
    """What was found in a model folder."""

    checks: tuple[ModelCheck, ...]
    statement: Statement | None = None  #: of who wrote it
    untouched: tuple[str, ...] = ()  #: tensors that were trained and did not change
    versions: dict[str, str] = Field(default_factory=dict, description="of the libraries that opened it")

    @property
    def failures(self) -> tuple[ModelCheck, ...]:
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    def summary(self) -> dict[str, str]:
        return {check.name: check.seen for check in self.checks}


@dataclass(frozen=True)
class Origin:
    """The base model that a folder should come from."""

    name: str
    tensors: dict[str, Fingerprint]  #: by name
    blocks: int
    trained: frozenset[str] | None  #: names of what the method changes; None: not known
    projection: Fingerprint | None = None  #: of the untrained one
    computing: dict[str, Any] | None = None  #: its configuration; None: not known
    recipe: Recipe | None = None  #: what was trained of it; None: not known
    source: str = ""  #: where it lies, with its tokenizer
    rows: int | None = None  #: of its token table; None: as its recipe says
    looks_ahead: bool | None = None  #: whether its tokens read those behind them; None: not known
    cuttable: bool = False  #: whether `name@k` are its first blocks

    @classmethod
    def of(cls, recipe: Recipe) -> Origin:
        """What `recipe` starts from, which must be at hand, and what its method trains."""
        base = load_base(recipe)
        dense = encoder_of(base, recipe).dense
        before = fingerprints(base)  # some methods change the model that they are applied to
        blocks, fields = len(blocks_of(base)), _computing(base)
        if isinstance(recipe.method, Adapters):  # merged into the layers that they adapt
            changes = {f"{layer}.weight" for layer in recipe.method.layers(base)}
        else:
            applied = recipe.method.apply(base)
            every = applied.named_parameters(remove_duplicate=False)  # a tied tensor is stored under each of its names
            changes = {name for name, value in every if value.requires_grad}
        projection = None if dense is None else Fingerprint.of(dense.weight)
        return cls(
            recipe.model.name,
            before,
            blocks,
            frozenset(changes),
            projection,
            fields,
            recipe,
            cuttable=recipe.model.depth is None,
        )

    @classmethod
    def of_model(
        cls, name: str, base: nn.Module, source: str, recipe: Recipe | None = None, *, cuttable: bool = False
    ) -> Origin:
        """`base`, which lies at `source`, where it is not known which of its tensors were trained; `recipe`, of this
        base, where there is a record of the training."""
        config: Any = base.config
        return cls(
            name,
            fingerprints(base),
            len(blocks_of(base)),
            None,
            computing=_computing(base),
            recipe=recipe,
            source=source,
            rows=config.vocab_size,
            looks_ahead=looks_ahead(base),
            cuttable=cuttable,
        )

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """As the recipe trains with it; without one as it is, or None where it cannot be read."""
        if self.recipe is not None:
            return tokenizer_of(self.recipe)
        with suppress(InputError):
            return load_tokenizer(self.source, rows=self.rows)
        return None

    @property
    def is_causal(self) -> bool | None:
        """Whether what is trained from it has a causal configuration; None where that is not known."""
        if self.recipe is None or self.computing is None:
            return None
        return bool(self.computing[CAUSAL]) and not self.recipe.options.bidirectional


def _computing(model: nn.Module) -> dict[str, Any]:
    config: Any = model.config
    return computing(config)


@checked
def examine(folder: str | Path, *, origin: Origin | None = None) -> Certificate:
    """Open `folder`, a sentence-transformers model, on the CPU, and ask it every question that there is something to
    compare with: certificate.json and record.json in it, and `origin`.

    Reads safetensors only and runs no code of the folder's.  Raises InputError where `folder` is no such model at all.
    """
    folder = expanded(folder)
    inner, pooling, *maps = module_folders(folder)
    earlier = earlier_certificate(folder)
    record = RunRecord.load(folder / RECORD) if (folder / RECORD).is_file() else None
    if earlier.statement is None and record is None:  # a stranger's, that is not bad for being none that we read
        for each in maps:
            check_linear(each)
    checks = list(_adapters(folder, inner, earlier.statement))
    try:
        model = open_sentence_transformer(folder, device="cpu")
        tensors = fingerprints(model[0].auto_model)
        checks.append(ModelCheck(name="opens", passed=True, seen=f"{len(tensors)} tensors"))
        checks.append(_as_stated(tensors, earlier.statement))
        checks += _projection(model, earlier.statement, None if record is None else record.recipe)
        written = Written(model)
        checks += _folder(written, inner, ours=earlier.statement is not None or record is not None)
        checks += _reading(written, pooling, earlier.statement, record)
        checks += _texts(written, earlier.statement)
        told = None if record is None else record.recipe
        checks += _direction(written, told, origin, certified=earlier.statement is not None)
        if told is not None:
            checks.append(_normalised(written))
        checks += _recipe(folder / RECIPE, told, earlier.statement)
        if origin is not None:
            checks += _as_the_base(written, origin)
            dense, blocks = dense_of(model), len(blocks_of(model[0].auto_model))
            projection = None if dense is None else Fingerprint.of(dense.weight)
            checks.append(trained(tensors, blocks, origin, projection, known=earlier.untouched)[0])
    except Exception as error:  # whatever it raises: what is in the folder is read by three libraries
        name = "reads texts" if any(check.name == "opens" for check in checks) else "opens"
        seen = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        checks.append(ModelCheck(name=name, passed=False, seen=seen))
    return Certificate(
        checks=tuple(checks),
        statement=earlier.statement,
        untouched=earlier.untouched,
        versions={name: metadata.version(name) for name in _LIBRARIES},
    )


def examine_afresh(folder: Path) -> Certificate:
    """`examine` in a new process, which knows nothing of this one.  Raises ExportError where that fails."""
    code = "import sys; from isoembed.encoder.certificate import examine; print(examine(sys.argv[1]).model_dump_json())"
    # it is found where this process found it, and leaves the GPU to it
    around = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, env=around, check=False
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise ExportError(f"The model that was written must open in a new process; it did not: {said}.")
    return Certificate.model_validate_json(done.stdout.splitlines()[-1])


def earlier_certificate(folder: Path) -> Certificate:
    """The certificate in `folder`; an empty one where there is none."""
    try:
        return Certificate.model_validate_json((folder / CERTIFICATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Certificate(checks=())
    except (ValueError, IsADirectoryError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(f"{folder / CERTIFICATE} is damaged ({said}). Export the model anew.") from None


def _adapters(folder: Path, inner: Path, statement: Statement | None) -> Iterator[ModelCheck]:
    """An adapter with a factor of zero adds nothing to its layer: it was never trained."""
    for place in dict.fromkeys((folder, inner)):
        if (file := place / ADAPTER_FILES[0]).is_file():
            yield _adapter(file)
    yield from _kept_adapter(folder / ADAPTER, statement)


def _kept_adapter(kept: Path, statement: Statement | None) -> Iterator[ModelCheck]:
    """One that was kept beside the model is as it was written; that it was taken away since is said and no fault, for
    the model has it merged."""
    written = None if statement is None else statement.adapter
    missing = [name for name in ADAPTER_FILES if not (kept / name).is_file()]
    if len(missing) == len(ADAPTER_FILES):
        if written is not None:
            yield ModelCheck(name="adapter", passed=None, seen=f"{ADAPTER}/ was written beside the model and is gone")
    elif missing:
        yield ModelCheck(
            name="adapter", passed=None if written is None else False, seen=f"{ADAPTER}/ has no {missing[0]}"
        )
    else:
        found = _adapter(kept / ADAPTER_FILES[0])
        if found.passed and written is not None and adapter_digest(kept) != written:
            found = ModelCheck(name="adapter", passed=False, seen="another one than was trained")
        elif found.passed and statement is not None and written is None:
            found = ModelCheck(name="adapter", passed=None, seen=f"{ADAPTER}/ is not what the certificate speaks of")
        yield found


def _adapter(file: Path) -> ModelCheck:
    try:
        with safe_open(file, "pt") as stored:
            factors = [stored.get_tensor(name) for name in stored.keys() if ".lora_" in name]  # noqa: SIM118
    except Exception as error:
        return ModelCheck(name="adapter", passed=False, seen=f"cannot be read ({first_line(error)})")
    bad = sum(not 0 < float(factor.float().norm()) < math.inf for factor in factors)
    seen = f"{bad} of {len(factors)} factors of the adapter are zero or no number" if bad else f"{len(factors)} factors"
    return ModelCheck(name="adapter", passed=not bad and bool(factors), seen=seen)


def _folder(written: Written, inner: Path, *, ours: bool) -> Iterator[ModelCheck]:
    """What must hold for any model, and for one that was written here."""
    transformer = written.model[0].auto_model
    broken = list(not_finite(transformer))
    yield ModelCheck(name="finite", passed=not broken, seen=some(broken) or "every weight is a finite number")
    rows = transformer.get_input_embeddings().num_embeddings
    highest = max(written.tokenizer.get_vocab().values(), default=0)
    yield ModelCheck(name="vocabulary", passed=highest < rows, seen=f"ids up to {highest:,}, a table of {rows:,} rows")
    yield _truncation(inner, written.context_tokens, ours=ours)
    kept = json_of(inner / "config.json", missing={})
    precision = str(kept.get("dtype") or kept.get("torch_dtype") or "float32")
    yield _equal("precision", f"opens in {precision}", "opens in float32" if ours else None)
    stated, wide = written.model.get_embedding_dimension(), written.embed(_UNLIKE[:1], "document").shape[1]
    seen = f"vectors of {wide} dimensions" + ("" if stated == wide else f", and the folder says {stated}")
    yield ModelCheck(name="width", passed=stated == wide, seen=seen)


def _reading(
    written: Written, pooling: Path, stated: Statement | None, record: RunRecord | None
) -> Iterator[ModelCheck]:
    """How the folder says that texts are read, beside how they were in training: as who wrote it stated, or else as
    its record says, and whether these agree."""
    recorded = None if record is None else Reading.of(record.recipe)
    expected = stated or recorded
    if stated is not None and record is not None:
        alike = all(getattr(stated, name) == getattr(recorded, name) for name in Reading.model_fields)
        alike &= stated.run in (None, record.recipe.key)
        seen = "as stated" if alike else f"{RECORD} is of another training than {CERTIFICATE}"
        yield ModelCheck(name="record", passed=alike, seen=seen)
    mode = written.model[1].pooling_mode
    words = json_of(pooling / "config.json", missing={})
    told = [theirs for theirs, key in EARLIER_POOLING_KEYS.items() if words.get(key)]
    if told in ([], [mode]):
        yield _equal("pooling", mode, None if expected is None else POOLING_MODES[expected.pooling])
    else:
        yield ModelCheck(
            name="pooling", passed=False, seen=f"{mode} by one of its names, {' and '.join(told)} by the other"
        )
    cut = f"cuts texts at {written.context_tokens} tokens"
    yield _equal("context", cut, None if expected is None else f"cuts texts at {expected.context_tokens} tokens")
    default = written.model.default_prompt_name
    asked = "where no side is named, no prompt" if default is None else f"where no side is named, that of {default!r}"
    yield _equal("prompts", written.prompts, None if expected is None else expected.prompts)
    yield _equal("default prompt", asked, None if expected is None else "where no side is named, no prompt")
    yield _equal("blocks", len(blocks_of(written.model[0].auto_model)), None if expected is None else expected.blocks)
    side = written.tokenizer.padding_side
    yield _equal("padding side", f"pads on the {side}", None if expected is None else "pads on the right")
    measure = str(written.model.similarity_fn_name)
    yield _equal("similarity", measure, None if expected is None else SIMILARITY)


def _equal(name: str, found: Any, expected: Any) -> ModelCheck:
    """expected: None where there is nothing to compare with."""
    if expected is None:
        return ModelCheck(name=name, passed=None, seen=str(found))
    passed = found == expected
    return ModelCheck(name=name, passed=passed, seen=str(found) if passed else f"{found}, not {expected}")


def _truncation(inner: Path, context_tokens: int, *, ours: bool) -> ModelCheck:
    """Libraries that read the tokenizer's files alone cut texts where these say so.  sentence-transformers does not:
    of others' models it is said, and no fault."""
    rules, settings = (json_of(inner / name, missing={}) for name in ("tokenizer.json", "tokenizer_config.json"))
    cuts = {
        "tokenizer.json": (rules.get("truncation") or {}).get("max_length"),
        "tokenizer_config.json": settings.get("model_max_length"),
    }
    short = [f"{name} cuts texts at {cut} tokens" for name, cut in cuts.items() if cut and cut < context_tokens]
    if not short:
        return ModelCheck(name="truncation", passed=True, seen="no file of the tokenizer cuts texts earlier")
    return ModelCheck(
        name="truncation", passed=False if ours else None, seen=f"{' and '.join(short)}, the model at {context_tokens}"
    )


def _texts(written: Written, statement: Statement | None) -> Iterator[ModelCheck]:
    """How texts are read: as stated, alone as beside others, each with a vector of its own."""
    found = probed(written)
    if statement is None:
        yield ModelCheck(name="token ids", passed=None, seen="no certificate.json to compare with")
        yield ModelCheck(name="vectors", passed=None, seen="no certificate.json to compare with")
    else:
        yield from _probes(found, statement)
        if statement.words is not None:
            alike = words_digest(written.tokenizer) == statement.words
            seen = "the text of every token is read as stated" if alike else "texts of tokens are read as other tokens"
            yield ModelCheck(name="vocabulary's tokens", passed=alike, seen=seen)
    yield _end_token(written, found)
    yield _attention(written.model[0].auto_model)

    alone = np.concatenate([written.embed([text], "document") for text in _UNLIKE])
    together = written.embed(_UNLIKE, "document")
    lengths = np.linalg.norm(alone, axis=1)
    apart = float((np.linalg.norm(alone - together, axis=1) / lengths).max())
    seen = f"a text alone and beside longer ones: {apart:.1g} apart"
    yield ModelCheck(name="padding", passed=apart < _BESIDE, seen=seen)
    nearest = max(float(alone[a] @ alone[b] / (lengths[a] * lengths[b])) for a, b in combinations(range(len(alone)), 2))
    # no bound is right for every base
    yield ModelCheck(name="distinct", passed=None, seen=f"three unlike texts: cosines up to {nearest:.3f}")


def _probes(found: tuple[Probe, ...], statement: Statement) -> Iterator[ModelCheck]:
    other = ids_apart(statement.probes, found)
    yield ModelCheck(name="token ids", passed=other is None, seen=other or f"{len(found)} texts read as stated")
    for side, apart in vectors_apart(statement.probes, found).items():
        seen = f"vectors of the {side} side are {apart:.2g} apart"
        yield ModelCheck(name=f"{side} vectors", passed=apart < statement.tolerance, seen=seen)


def _end_token(written: Written, found: tuple[Probe, ...]) -> ModelCheck:
    """A model that pools the last token was trained to do so at one token, behind a text that is cut too."""
    if (mode := written.model[1].pooling_mode) != "lasttoken":
        return ModelCheck(name="end token", passed=None, seen=f"pools {mode}")
    ends = {probe.ends[-1] for probe in found if probe.tokens}
    tokenizer: Any = written.tokenizer
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}
    passed = len(ends) == 1 and ends <= special
    seen = f"every text ends in {tokenizer.decode(list(ends))!r}" if passed else "texts do not end in one special token"
    return ModelCheck(name="end token", passed=passed, seen=seen)


def _attention(transformer: Any) -> ModelCheck:
    """Whether tokens read those behind them, as the configuration says."""
    back_only = not looks_ahead(transformer)
    seen = "every token reads those before it" if back_only else "every token reads the whole text"
    if back_only and getattr(transformer.config, "is_causal", True) is False:
        return ModelCheck(name="attention", passed=False, seen=f"{seen}, and its configuration says both ways")
    return ModelCheck(name="attention", passed=back_only or not looks_back_only(transformer), seen=seen)


def _direction(
    written: Written, recipe: Recipe | None, origin: Origin | None, *, certified: bool
) -> Iterator[ModelCheck]:
    """Whether the configuration's attention direction is that of the training.

    A base may read both ways by itself: where it is not at hand, the vectors of a certificate tell.
    """
    if recipe is None and origin is not None and origin.looks_ahead and not looks_ahead(written.model[0].auto_model):
        seen = f"tokens read those before them, and those of {origin.name} the whole text"
        yield ModelCheck(name="direction", passed=False, seen=seen)
        return
    expected = None if origin is None else origin.is_causal
    if expected is None and recipe is not None and (recipe.options.bidirectional or not certified):
        expected = not recipe.options.bidirectional
    if expected is not None:
        found = computing(written.model[0].auto_model.config)[CAUSAL]
        ways = {True: "tokens read those before them", False: "tokens read the whole text"}
        yield _equal("direction", ways[found], ways[expected])


def _normalised(written: Written) -> ModelCheck:
    """Training gives vectors of length 1."""
    lengths = np.linalg.norm(written.embed(_UNLIKE, "document"), axis=1)
    passed = bool((np.abs(lengths - 1) < _BESIDE).all())
    return ModelCheck(
        name="length", passed=passed, seen=f"vectors of length {lengths.min():.4g} to {lengths.max():.4g}"
    )


def _recipe(file: Path, recorded: Recipe | None, statement: Statement | None) -> Iterator[ModelCheck]:
    """`file` is what others train this model by: the recipe of its record, or that of the certificate where the record
    is gone, which is said."""
    key = None if statement is None else statement.run
    if recorded is None and key is not None:
        yield ModelCheck(name="record", passed=None, seen=f"{RECORD} was written beside the model and is gone")
    key = key if recorded is None else recorded.key
    if key is None or not file.is_file():
        return
    try:
        alike = Recipe.load(file).key == key
    except InputError as error:
        yield ModelCheck(name="recipe", passed=False, seen=str(error))
        return
    seen = "that of the run" if alike else f"{RECIPE} is of another training than {RECORD if recorded else CERTIFICATE}"
    yield ModelCheck(name="recipe", passed=alike, seen=seen)


def _as_the_base(written: Written, origin: Origin) -> Iterator[ModelCheck]:
    """What a training leaves as it is in its base: the configuration, and the tokens of a text."""
    if origin.computing is not None:
        # blocks, rows and direction are looked at elsewhere
        found = computing(written.model[0].auto_model.config)
        other = first_apart(found, origin.computing, but=_CHANGED)
        seen = f"computes as {origin.name}" if other is None else f"`{other[0]}` is {other[1]}, not {other[2]}"
        yield ModelCheck(name="configuration", passed=other is None, seen=seen)
    tokenizer = origin.tokenizer()
    if tokenizer is None:
        yield ModelCheck(name="base's tokens", passed=None, seen=f"{origin.name} has no tokenizer to compare with")
        return
    apart = words_apart(written.tokenizer, tokenizer)
    if apart is None and origin.recipe is not None:
        apart = base_ids_apart(written, tokenizer, origin.recipe.context_tokens)
    yield ModelCheck(name="base's tokens", passed=apart is None, seen=apart or f"texts read as {origin.name}'s")


def _as_stated(tensors: Mapping[str, Fingerprint], statement: Statement | None) -> ModelCheck:
    if statement is None:
        return ModelCheck(name="tensors", passed=None, seen="no certificate.json to compare with")
    stated, found = statement.tensors, {name: str(tensor) for name, tensor in tensors.items()}
    other = [name for name in {**stated, **found} if stated.get(name) != found.get(name)]
    if not other:
        return ModelCheck(name="tensors", passed=True, seen=f"{len(tensors)} as stated")
    seen = f"{len(other)} of {len(stated)} tensors are others ({some(other)})"
    return ModelCheck(name="tensors", passed=False, seen=seen)


def _projection(model: Any, statement: Statement | None, recipe: Recipe | None) -> Iterator[ModelCheck]:
    """The learned projection, of a folder that has one or should."""
    dense = dense_of(model)
    stated = None if statement is None else statement.dimensions
    expected = stated if recipe is None else recipe.options.dimensions
    if dense is None and expected is None and stated is None:
        return
    found = None if dense is None else str(Fingerprint.of(dense.weight))
    width = "no projection" if dense is None else f"{dense.in_features} to {dense.out_features} dimensions"
    known = statement is not None or recipe is not None
    faults = {
        f"{width}, not to {expected}": known and (None if dense is None else dense.out_features) != expected,
        f"{width}, its weights not those stated": statement is not None and found != statement.projection,
        f"{width}, some of its weights no number": dense is not None and bool(list(not_finite(dense))),
    }
    seen = next((fault for fault, holds in faults.items() if holds), None)
    passed = (True if known else None) if seen is None else False
    yield ModelCheck(name="projection", passed=passed, seen=seen or width)


def trained(
    tensors: Mapping[str, Fingerprint],
    blocks: int,
    origin: Origin,
    projection: Fingerprint | None = None,
    *,
    known: Collection[str] | None = None,
) -> tuple[ModelCheck, tuple[str, ...]]:
    """Whether a model of `tensors`, and of such a learned `projection`, was trained from `origin` by its
    method, and the tensors that were trained and did not change: none but those of which that is `known`, where
    anything is (some get no gradient)."""
    base, name = origin.tensors, origin.name
    changed = {each for each in base.keys() & tensors.keys() if tensors[each] != base[each]}
    reshaped = sorted(each for each in changed if tensors[each].shape != base[each].shape)
    beyond = [] if origin.trained is None else sorted(changed - origin.trained)
    untouched = [] if origin.trained is None else sorted(origin.trained - changed)
    lost = [each for each in untouched if known is not None and each not in known]
    zeroed = sorted(each for each in changed if tensors[each] == Fingerprint.of_zeros(tensors[each].shape))
    cut = f" (a cut one is {name}@{blocks})" if origin.cuttable else ""
    faults = {
        f"has {blocks} of the {origin.blocks} blocks of {name}{cut}": blocks < origin.blocks,
        f"has {blocks} blocks, {name} {origin.blocks}": blocks > origin.blocks,
        f"lacks {some(sorted(base.keys() - tensors.keys()))} of {name}": base.keys() - tensors.keys(),
        f"has {some(sorted(tensors.keys() - base.keys()))}, which {name} has not": tensors.keys() - base.keys(),
        f"has {some(reshaped)} of another shape than {name}": reshaped,
        f"is untrained: every tensor is that of {name}": not changed,
        f"has {some(zeroed)}, which is zero and is not in {name}": zeroed,
        "has a projection that is untrained": projection is not None and projection == origin.projection,
        f"has {some(beyond)}, which was not trained and differs from {name}": beyond,
        f"has {some(lost)}, which was trained and is that of {name}": lost,
    }
    seen = next((fault for fault, found in faults.items() if found), None)
    passed = f"{len(changed)} of {len(base)} tensors differ from {name}"
    return ModelCheck(name="trained", passed=seen is None, seen=seen or passed), tuple(untouched)
