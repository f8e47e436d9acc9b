"""The main job: data and recipe, training, export, evaluation, each resumable, all inside one output folder.

What the folder holds: the sentence-transformers model itself, README.md (its card), recipe.json, record.json and
scores.json.  Tokenised data, checkpoints and metrics lie in the cache (`isoembed.cache`): the folder may be published.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerFast

from isoembed.budget import Budget
from isoembed.cache import begin_work, cache_folder, tokens_folder, working_folder
from isoembed.core import InputError, checked, expanded, no_room, sole_writer, write_atomically
from isoembed.data.dataset import HELDOUT_PAIRS, PairData, prepare
from isoembed.data.order import ordered
from isoembed.data.sources import MAX_ROW_BYTES, PairsInMemory, Source, absolute, open_source
from isoembed.encoder.base_card import base_card
from isoembed.encoder.card import TRAINED, model_card
from isoembed.encoder.computing import computing_hash
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.export import MARKER, clear_export
from isoembed.encoder.exported import MODULES
from isoembed.encoder.load import attend_both_ways, grow_table, load_base, load_model, weights_hash
from isoembed.encoder.precision import AskedPrecision
from isoembed.encoder.teacher import open_teacher
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.evaluation.retrieval import RetrievalTask
from isoembed.evaluation.score import Scores, evaluate
from isoembed.evaluation.systems import BM25, DenseSystem, EmbeddingSystem, Quantized, Static, System
from isoembed.evaluation.tasks import Task, open_task, open_tasks
from isoembed.families.base import ModelSpec
from isoembed.fitting.io.law_file import LawSet
from isoembed.methods import Adapters
from isoembed.options import NO_PROMPTS, Prompts, Teacher
from isoembed.recipe import EarlyStopping, Precision, Recipe, Setup, affordable, check_trained, differs
from isoembed.recommendation.notes import note
from isoembed.recommendation.recommend import Request, law_of, recommend, settings_of
from isoembed.recommendation.repeats import repeated
from isoembed.recommendation.result import Recommendation
from isoembed.records import RECIPE, RECORD, RunRecord
from isoembed.scratch import STEPS, TRUNK, clear_files
from isoembed.training.callbacks import Callback, MetricsFile
from isoembed.training.checkpoint import (
    LoopState,
    begun_precision,
    branch,
    checkpoints,
    remove_checkpoints,
    trunk_state,
)
from isoembed.training.distributed import barrier, rank
from isoembed.training.early_stopping import check_evaluated
from isoembed.training.execution import Execution
from isoembed.training.heldout import heldout_fingerprint
from isoembed.training.loop import run
from isoembed.training.teacher import read_by_teacher

#: what a recipe names by where it lies
Placed = TypeVar("Placed", ModelSpec, Teacher)
#: in a run's working folder
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class DataOptions:
    """Where the pairs come from and how their fields are named."""

    spec: str | Path = "docstrings"
    heldout: str | Path | None = None
    query_key: str | None = None
    positive_key: str | None = None
    on_bad_rows: str = "error"
    negative_key: str | None = None
    negatives: int | None = None  #: hard negatives of a row at most; None: all
    max_row_bytes: int = MAX_ROW_BYTES
    heldout_pairs: int = HELDOUT_PAIRS  #: at most; 0: none

    def source(self, spec: str | Path, prompts: Prompts = NO_PROMPTS, *, whole: bool = False) -> Source:
        """`spec` opened with these names and this patience; its rows bring no other `prompts`, and a mixture is of
        `whole` sources or goes by its weights."""
        if self.on_bad_rows not in ("error", "skip"):
            raise InputError(f"`on_bad_rows` must be error or skip; got {self.on_bad_rows!r}.")
        return open_source(
            str(spec),
            query_key=self.query_key,
            positive_key=self.positive_key,
            negatives_key=self.negative_key,
            max_negatives=self.negatives,
            on_bad_rows="skip" if self.on_bad_rows == "skip" else "error",
            prompts=prompts,
            max_row_bytes=self.max_row_bytes,
            whole=whole,
        )

    def absolute(self) -> DataOptions:
        """The same, from whatever folder it is read."""
        heldout = None if self.heldout is None else absolute(str(self.heldout))
        return replace(self, spec=absolute(str(self.spec)), heldout=heldout)

    @property
    def names_heldout(self) -> bool:
        """Whether they say otherwise than by default which pairs are held out."""
        return self.heldout is not None or self.heldout_pairs != HELDOUT_PAIRS

    def prepare(self, tokenizer: PreTrainedTokenizerFast, setup: Setup, *, cache: str | Path) -> PairData:
        """The pairs as `split` has them, in the batches of `setup` and read by its teacher."""
        return _ready(self.split(tokenizer, setup, cache=cache), setup)

    def split(self, tokenizer: PreTrainedTokenizerFast, setup: Setup, *, cache: str | Path) -> PairData:
        """Tokenise (or find tokenised) and split the pairs; every training seed sees the same split."""
        prompts = setup.options.prompts
        source = self.source(self.spec, prompts, whole=setup.options.source_alpha is not None)
        return _split(source, tokenizer, setup, cache, self._heldout(prompts), self.heldout_pairs)

    def _heldout(self, prompts: Prompts) -> Source | None:
        """The source of the pairs that are held out, where they have one; what is wrong with it names `heldout`."""
        try:
            return None if self.heldout is None else self.source(self.heldout, prompts)
        except InputError as error:
            raise InputError(str(error).replace("`data`", "`heldout`")) from error


DataOptions.__init__ = checked(DataOptions.__init__)  # type: ignore[method-assign]


def _split(
    source: Source,
    tokenizer: PreTrainedTokenizerFast,
    setup: Setup,
    cache: str | Path,
    heldout: Source | None = None,
    heldout_pairs: int = HELDOUT_PAIRS,
) -> PairData:
    """The pairs of `source`, cut and behind prompts as `setup` has them."""
    return prepare(
        source,
        tokenizer,
        context_tokens=setup.context_tokens,
        folder=cache,
        heldout=heldout,
        prompts=setup.options.prompts,
        heldout_pairs=heldout_pairs,
    )


def _ready(data: PairData, setup: Setup) -> PairData:
    """The pairs as `setup` trains on them: in its batches, and read by its teacher."""
    return read_by_teacher(ordered(data, setup), setup)


@dataclass(frozen=True)
class Extended:
    """A finished run that a job goes on from: its record, and where the checkpoint before its rate fell lies."""

    record: RunRecord
    trunk: Path


@dataclass(frozen=True)
class Job:
    """A decided job: what to run, on what, and what it extends."""

    recommendation: Recommendation
    data: PairData
    tokenizer: PreTrainedTokenizerFast
    extended: Extended | None = None

    def __post_init__(self) -> None:
        check_evaluated(self.recipe, self.data)

    @property
    def recipe(self) -> Recipe:
        """What will be trained."""
        return self.recommendation.recipe

    def decided(self, recipe: Recipe) -> Job:
        """The job with its recipe as it will run."""
        return replace(self, recommendation=self.recommendation.model_copy(update={"recipe": recipe}))


@checked
def plan_job(
    request: Request,
    data: DataOptions | str | Path,
    *,
    cache: str | Path,
    law: LawSet | str | Path | None = None,
    other_settings: bool = False,
    far: bool = False,
) -> Job:
    """Tokenise the data, then decide.  A family shares one tokenizer, so the data are prepared once for all sizes; for
    pooling by the last token every text ends in the end-of-text token.

    data: how the pairs are read, or where they lie.
    `law`, `other_settings` and `far` as for `recommend`; a law brings the setup of its runs.

    Raises InputError where the data cannot be read or leave nothing to train on, or no recipe is within the limits.
    """
    family, law = request.family, None if law is None else LawSet.load(law)
    data = data if isinstance(data, DataOptions) else DataOptions(data)
    setup = request.setup_at(*settings_of(law or law_of(family)))
    some_model = family.models[0] if request.model is None else family.model(request.model)
    check_trained(setup)  # before the data are read
    tokenizer = _tokenizer(some_model, setup)
    pairs = data.prepare(tokenizer, setup, cache=cache)
    read = {name: getattr(setup, name) for name in ("context_tokens", "temperature", "pooling", "options")}
    heldout = heldout_fingerprint(pairs, temperature=setup.temperature)
    asked = request.model_copy(update={**read, "data": pairs.stats, "heldout": heldout})
    recommendation = recommend(asked, law=law, other_settings=other_settings, far=far)
    recipe = _with_base(recommendation.recipe)
    return Job(recommendation.model_copy(update={"recipe": recipe}), pairs, tokenizer)


def plan_recipe(
    recipe: Recipe,
    options: DataOptions,
    *,
    cache: Path,
    place: Path,
    other_data: bool = False,
    extending: LoopState | None = None,
    epochs: float | None = None,
) -> Job:
    """The job of a decided recipe, as that of a finished run, whose folder is `place`: its base may lie beside that.

    epochs: of the pairs, in place of the recipe's number of tokens.
    other_data: train on these pairs whichever the recipe was made for; else those must be they, and are held out as its
        run did where `options` do not say how.
    extending: where the run stands that is gone on with; other pairs, which it cannot take, are then not proposed.
    Raises InputError where the base or the pairs are not those of the recipe.
    """
    found = at_hand(recipe, place)
    if found is None:
        raise InputError(
            f"The recipe's base {recipe.model.source}, with the weights that it was made for, must be here or beside "
            f"{place}. Put it there."
        )
    found = _with_teacher(found, place)
    teacher = found.options.teacher
    if teacher is not None and teacher.source.startswith("./"):  # as it is left where it was not found
        raise InputError(
            f"The recipe's teacher {teacher.source}, unchanged, must be here or beside {place}. Put it there."
        )
    tokenizer = _tokenizer(found.model, found)
    record = _record_in(place, recipe)
    data = None
    if record is not None and not options.names_heldout:
        data = _of_that_run(record, options, tokenizer, found, cache, other_data=other_data)
    if data is None:
        data = options.prepare(tokenizer, found, cache=cache)
    same = data.stats.fingerprint == found.data.fingerprint
    if not (same or other_data):
        those = "those, or others," if extending is None else "those"
        said = "" if record is None else f" (it evaluated {_evaluated(record):,})"
        raise InputError(
            f"The pairs of {options.spec} are not those that the recipe was made for ({found.data.source}, "
            f"{found.data.fingerprint}). Name {those} as `data`, and hold out pairs as that run did, by "
            f"`heldout_pairs` or `heldout`{said}."
        )
    if not same:
        found = found.model_copy(update={"data": data.stats})
    if epochs is not None:
        found = found.over(epochs)
    decided = _with_base(found, None if extending is None else extending.computing)
    if decided.base_hash != (found.base_hash or decided.base_hash):
        raise InputError(f"The weights of {found.model.source} are not those that the recipe was made for.")
    return Job(_given(decided, "given" if same else "given-elsewhere", epochs=epochs), data, tokenizer)


@checked
def plan_extension(
    model: str | Path,
    data: DataOptions | str | Path,
    *,
    budget: Budget | str | float,
    cache: str | Path,
    trunk: Path | None = None,
) -> Job:
    """The job that goes on with the run whose model lies in `model`, to a larger `budget`, of which what it takes over
    is a part.  Its weights are those of a run of that budget that began anew, with the warm-up of the shorter one.

    trunk: the checkpoint from there; default: as `trunk_of` has it.
    Raises InputError where the run cannot be extended, or the pairs are not its own.
    """
    folder, budget = expanded(model), Budget.parse(budget)
    record = RunRecord.load(folder / RECORD)
    extended = Extended(record, _moved(trunk or trunk_of(folder), record))
    recipe = _extended(record.recipe, budget)
    state = trunk_state(extended.trunk, record)
    options = data if isinstance(data, DataOptions) else DataOptions(data)
    job = plan_recipe(record.recipe, options, cache=expanded(cache), place=folder.absolute(), extending=state)
    longer = job.recipe.extended(recipe.train_tokens)
    return replace(job, recommendation=_given(longer, "extended", epochs=budget.epochs), extended=extended)


def _record_in(place: Path, recipe: Recipe) -> RunRecord | None:
    """The record of the run of `recipe` in `place`; None where there is none."""
    with suppress(InputError):
        record = RunRecord.load(place / RECORD)
        if record.recipe.key == recipe.key:
            return record
    return None


def _evaluated(record: RunRecord) -> int:
    """How many held-out pairs a run evaluated."""
    return 0 if record.heldout is None else record.heldout.pairs


def _of_that_run(
    record: RunRecord,
    options: DataOptions,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    cache: Path,
    *,
    other_data: bool,
) -> PairData | None:
    """The pairs, held out as the run of `record` did; None where these are others, which `other_data` allows."""
    try:
        data = _ready(_split_as(record, options, tokenizer, recipe, cache), recipe)
    except InputError:
        if other_data:
            return None
        raise
    return None if other_data and data.stats.fingerprint != recipe.data.fingerprint else data


def _split_as(
    record: RunRecord, options: DataOptions, tokenizer: PreTrainedTokenizerFast, setup: Setup, cache: Path
) -> PairData:
    """The pairs, with the held-out ones of the run of `record`: those of `options`, or else as many as it evaluated."""
    with suppress(InputError):  # of labels none can be held out, which that run may not have asked for
        data = options.split(tokenizer, setup, cache=cache)
        evaluated = None if record.heldout is None else record.heldout.fingerprint
        if heldout_fingerprint(data, temperature=setup.temperature) == evaluated:
            return data
    return replace(options, heldout_pairs=_evaluated(record)).split(tokenizer, setup, cache=cache)


def _extended(recipe: Recipe, budget: Budget) -> Recipe:
    """The recipe with the tokens that `budget` pays for."""
    if budget.epochs is not None:
        return recipe.extended(recipe.over(budget.epochs).train_tokens)
    flop = budget.paid_flop
    return recipe.extended(affordable(flop, recipe.model, recipe.method, recipe, recipe.data))


def trunk_of(model: str | Path, cache: str | Path | None = None) -> Path:
    """Where the run that left its model in this folder keeps the checkpoint from before its rate fell."""
    return working_folder(expanded(model), cache_folder(cache)) / CHECKPOINTS / TRUNK


def _moved(trunk: Path, record: RunRecord) -> Path:
    """`trunk`, where it lies; else that of the run of `record` in the same cache, whose model's folder was moved."""
    for other in () if checkpoints(trunk) else sorted(trunk.parents[2].glob(f"*/{CHECKPOINTS}/{TRUNK}")):
        with suppress(InputError):
            trunk_state(other, record)
            return other
    return trunk


def _tokenizer(model: ModelSpec, setup: Setup) -> PreTrainedTokenizerFast:
    """The model's, which ends texts as the pooling needs it."""
    rows = model.vocab if setup.options.resize_embeddings else None
    return load_tokenizer(model.source, pooling=setup.pooling, rows=rows)


def _given(recipe: Recipe, code: str = "given", *, epochs: float | None = None) -> Recommendation:
    """A recipe that nobody here chose, as what is trained; over so many `epochs` where they were asked for."""
    asked = () if epochs is None else (note("basis", "epochs-as-asked", epochs=epochs),)
    notes = (note("basis", code), *asked, *repeated(recipe))
    return Recommendation(budget=Budget.parse(recipe.total_flop), recipe=recipe, notes=notes, runners_up=())


def _with_base(recipe: Recipe, known: str | None = None) -> Recipe:
    """The recipe with the hash of its base's weights; what that model cannot do is refused before the training.

    known: how that model computed when the run was begun that is gone on with, as `computing_hash` has it.
    """
    base = load_model(recipe.model.source, depth=recipe.model.depth)
    decided = recipe.model_copy(update={"base_hash": weights_hash(base)})
    if recipe.options.resize_embeddings:
        grow_table(base, recipe.model.vocab)
    if recipe.options.bidirectional:
        attend_both_ways(base)
    config: Any = base.config
    if known not in (None, computing_hash(config)):
        raise InputError(
            f"A run goes on with the base that it was begun with; the configuration of {recipe.model.source} has "
            "changed. Put back its config.json, or train the longer run anew."
        )
    return decided


@checked
def train(
    recipe: Recommendation | Recipe | str | Path,
    pairs: DataOptions | str | Path | Iterable[Any],
    out: str | Path = "model",
    *,
    epochs: float | None = None,
    early_stopping: EarlyStopping | None = None,
    cache: str | Path | None = None,
    execution: Execution | None = None,
    callbacks: Sequence[Callback] = (),
    keep_adapter: bool = False,
) -> RunRecord:
    """Train what `recommend` found, or a recipe or its file (recipe.json of any run), and leave the model in `out`.

    pairs: (query, positive) or (query, positive, negatives) each, dicts of the fields that files have, or where the
        pairs lie, as text or `DataOptions`.
    epochs: how often to go through the pairs, in place of the recipe's number of tokens.
    early_stopping: which weights to keep and what ends the run, in place of what the recipe says.
    cache: folder for tokenised data, reused between runs, and for checkpoints; default: the user's (`user_cache`).
    A recipe that names its data is trained on these alone.
    """
    out = expanded(out)
    resume = execution is not None and execution.resume
    check_place(out, working_folder(out, cache_folder(cache)), resume=resume)
    found = recipe if isinstance(recipe, Recommendation) else _as_recommendation(recipe)
    asked = found.recipe
    tokenizer = _tokenizer(asked.model, asked)
    folder = tokens_folder(out, cache)
    if isinstance(pairs, str | Path):
        pairs = DataOptions(pairs)
    if isinstance(pairs, DataOptions):
        data = pairs.prepare(tokenizer, asked, cache=folder)
    else:
        data = _ready(_split(PairsInMemory(pairs), tokenizer, asked, folder), asked)
    if asked.data.fingerprint is None:
        asked = asked.model_copy(update={"data": data.stats})
    if asked.base_hash is None:
        asked = _with_base(asked)
    if early_stopping is not None:
        asked = asked.model_copy(update={"early_stopping": early_stopping})
    if epochs is not None:
        asked = asked.over(epochs)
    elif found.recipe.epochs is None and (asked.epochs or 0) > 1:
        too_many = note("warning", "made-without-end", epochs=asked.epochs)
        remedy = "name `epochs`, or `plan_job` for these pairs."
        warnings.warn(f"{too_many.describe()}; {remedy}", stacklevel=3)  # through `checked`
        found = found.model_copy(update={"notes": (*found.notes, too_many)})
    job = Job(found.model_copy(update={"recipe": asked}), data, tokenizer)
    return train_job(job, out, cache=cache, execution=execution, callbacks=callbacks, keep_adapter=keep_adapter)


def _as_recommendation(recipe: Recipe | str | Path) -> Recommendation:
    """A recipe of the user's own, or of a file, whose base model may lie beside that."""
    if not isinstance(recipe, Recipe):
        file = expanded(recipe)
        read = Recipe.load(file)
        recipe = _with_teacher(at_hand(read, file.parent) or read, file.parent)
    return _given(recipe)


@checked
def train_job(
    job: Job,
    out: str | Path,
    *,
    cache: str | Path | None = None,
    execution: Execution | None = None,
    callbacks: Sequence[Callback] = (),
    keep_adapter: bool = False,
) -> RunRecord:
    """Train, and leave the model with its record in `out`; with `execution.resume`, what is done is not done again.

    cache: where checkpoints and metrics lie meanwhile; default: the user's (`user_cache`).

    Raises InputError where `out` is taken or belongs to another recipe, DivergedError where the loss stops being finite
    and StoppedError after a signal; the last two leave a good checkpoint behind.
    """
    out, execution = expanded(out), execution or Execution()
    work = working_folder(out, cache_folder(cache))
    check_place(out, work, resume=execution.resume)
    job = job.decided(execution.decided(job.recipe, begun=_begun(out, work) if execution.resume else None))
    if execution.resume and (out / RECORD).exists() and (out / MODULES).exists():
        record = RunRecord.load(out / RECORD)
        if record.key not in (job.recipe.key, job.recipe.published().key):
            apart = _apart(record.recipe, job.recipe)
            raise InputError(f"{out} holds a model of another recipe: {apart}; give another `out`.")
        clear_export(out)  # killed when all was in its place
        return record
    if keep_adapter and not isinstance(job.recipe.method, Adapters):
        raise InputError(f"`keep_adapter` needs an adapter; {job.recipe.method.label} has none. Leave it out.")
    with sole_writer(work) if rank() == 0 else nullcontext():
        metrics = MetricsFile(work / "metrics.jsonl", beside=out / RECIPE)
        if rank() == 0:
            if execution.resume and checkpoints(work / CHECKPOINTS):
                _check_begun(out, job.recipe)
            begin_work(out, work, resume=execution.resume)
            clear_files(out, old_seconds=0.0)
            write_atomically(out / RECIPE, job.recipe.published().model_dump_json(indent=1) + "\n")
            if job.extended is not None and not checkpoints(work / CHECKPOINTS):
                branch(job.extended.trunk, work / CHECKPOINTS, job.recipe, job.extended.record)
            callbacks = (metrics, *callbacks)
        else:
            callbacks = ()
        if job.extended is not None:
            barrier()  # the other ranks read what the first one has put there
            execution = replace(execution, resume=True)
        encoder, record = run(job.recipe, job.data, work / CHECKPOINTS, execution=execution, callbacks=callbacks)
        record = record.published()
        if rank() == 0:
            metrics.check()
            embedder = Embedder(encoder, job.tokenizer, job.recipe.context_tokens)
            embedder.save(
                out, card=card_of(job, record), record=record, recipe=job.recipe, keep_adapter=keep_adapter, afresh=True
            )
            remove_checkpoints(work / CHECKPOINTS)
    barrier()
    return record


def check_place(out: Path, work: Path, *, resume: bool | None) -> None:
    """Raise InputError where `out` is taken, or its working folder `work` by a run that was stopped: before hours of
    work, not after.

    resume: whether the run there is gone on with; None: nothing could, for what comes there is no run.
    """
    if (not resume and (out / RECORD).exists()) or (resume is None and (out / MODULES).exists()):
        keeping = "" if resume is None else ", or `resume` to keep it"
        model = "a trained model" if (out / RECORD).exists() else "a model"
        raise InputError(f"{out} already holds {model}; give another `out`{keeping}.")
    nearest = next(place for place in (out, *out.absolute().parents) if os.path.lexists(place))
    if not nearest.is_dir():
        raise InputError(f"The model must be written to a folder; {nearest} is a file. Name another one.")
    if not (resume and (out / RECORD).exists()) and not _takes_files(nearest):
        raise InputError(f"The model must be written to a folder; none can be made in {nearest}. Name another place.")
    foreign = [name for name in (MODULES, "README.md", "config.json") if (out / name).exists()]
    if foreign and not (out / MARKER).exists():
        raise InputError(f"{out} holds {', '.join(foreign)}, which no export of ours wrote; give another `out`.")
    if not resume and out.is_dir() and any((work / CHECKPOINTS).glob(STEPS)):
        going_on = "" if resume is None else "go on with `resume` or "
        raise InputError(f"{out} already holds checkpoints of a run; {going_on}give another `out`.")


def _check_begun(out: Path, recipe: Recipe) -> None:
    """Raise InputError where `out` was begun with another recipe, before that is written over."""
    try:
        begun = Recipe.model_validate_json((out / RECIPE).read_bytes())
    except (OSError, ValueError):
        return  # the checkpoint itself tells
    if begun.key in (recipe.key, recipe.published().key):
        return
    raise InputError(
        f"A run goes on with the recipe that it was begun with; {out} was begun with another: {_apart(begun, recipe)}. "
        "Ask for that one, by its options or `recipe`, or give another `out`."
    )


def _apart(there: Recipe, here: Recipe) -> str:
    """In what two recipes differ."""
    facts = {
        "method": (there.method.label, here.method.label),
        "model": (there.model.name, here.model.name),
        "tokens": (f"{there.train_tokens:,}", f"{here.train_tokens:,}"),
        "learning rate": (f"{there.learning_rate:.4g}", f"{here.learning_rate:.4g}"),
        "seed": (there.seed, here.seed),
        "early stopping": (str(there.early_stopping) or "none", str(here.early_stopping) or "none"),
        "precision": (there.precision or "fp32", here.precision or "fp32"),
    }
    apart = [differs(what, *both) for what, both in facts.items() if both[0] != both[1]]
    return "; ".join(map(str, (*apart, *there.setup.differences(here.setup).values()))) or "other data or weights"


def _takes_files(folder: Path) -> bool:
    """Whether something can be made in `folder`: of some, as /proc, permissions do not say it."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        if no_room(error):
            raise
        return False


def _begun(out: Path, work: Path) -> Precision | None:
    """The precision of the run in `out`, ended or not; None where it has not come to a checkpoint."""
    if (out / RECORD).is_file():
        return RunRecord.load(out / RECORD).recipe.precision or "fp32"
    return begun_precision(work / CHECKPOINTS)


@checked
def evaluate_job(job: Job, out: str | Path, record: RunRecord, tasks: Sequence[Task] = ()) -> Scores:
    """Score the model in `out` beside its untrained base, the static baseline and BM25, on the held-out pairs and on
    `tasks`, in the precision of the run; write scores.json, and put the scores on the model card, which is the report
    of the run.  Metrics are from 0 to 1 (nDCG, MRR, recall) or -1 to 1 (Spearman).

    Raises InputError where `out` holds no model.
    """
    out = expanded(out)
    queries, positives = job.data.heldout_texts()
    trained = replace(Embedder.load(out), precision=record.recipe.precision or "fp32")
    heldout = [RetrievalTask.from_pairs("held-out pairs", queries, positives)] if queries else []
    scores = evaluate(systems_beside(trained, base=job.recipe), [*heldout, *tasks])
    write_atomically(out / "scores.json", scores.model_dump_json(indent=1) + "\n")
    write_atomically(out / "README.md", card_of(job, record, scores))
    return scores


def card_of(job: Job, record: RunRecord, scores: Scores | None = None) -> str:
    """The model card, with what the recommendation rests on among its limits."""
    recommendation = job.recommendation
    limits = [f"Chosen by: {recommendation.basis}."]
    limits += [f"Assumed: {line}." for line in recommendation.assumed]
    limits += [f"Warning: {line}." for line in recommendation.warnings]
    limits += [f"Data: {note}" for note in job.data.notes]
    return model_card(
        record,
        None if scores is None else scores.metrics(),
        kinds=None if scores is None else scores.kinds(),
        base=base_card(job.recipe.model.source),
        budget_flop=recommendation.budget.flop,
        limits=tuple(limits),
    )


def evaluate_folder(
    model: str,
    data: Path,
    *,
    kind: str | None = None,
    dims: int | None = None,
    quantized: bool = False,
    precision: AskedPrecision = "auto",
) -> Scores:
    """Score an exported folder, or an untrained base model, on the task at `data` or on all tasks in it; by the first
    `dims` dimensions of its embeddings alone where that is given, and `quantized` too where that is asked."""
    tasks = open_tasks(data) if kind is None else (open_task(kind, data),)
    folder = Path(model)
    embedder = Embedder.load(model).in_precision(precision)
    if (folder / MODULES).is_file():
        record = RunRecord.load(folder / RECORD) if (folder / RECORD).is_file() else None
        base = None if record is None else at_hand(record.recipe, folder)
        return evaluate(systems_beside(embedder, base=base, dims=dims, quantized=quantized), tasks)
    untrained = DenseSystem(embedder, dims=dims)
    systems: dict[str, System] = {"base, untrained": untrained, "static table": Static(embedder), "BM25": BM25()}
    return evaluate(systems | (_smaller("base, untrained", untrained) if quantized else {}), tasks)


def at_hand(recipe: Recipe, folder: Path) -> Recipe | None:
    """The recipe of the model in `folder`, with its base where it lies; None where its base was a folder which is
    neither here nor beside `folder`: a record names no places, and others may be of that name."""
    if not recipe.model.source.startswith("./"):
        return recipe
    for model in _placed(recipe.model, folder):
        found = recipe.model_copy(update={"model": model})
        if _opens(partial(load_base, found)):
            return found
    return None


def _with_teacher(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with its teacher where it lies, as `at_hand` finds its base; else as it is."""
    for taught in _placed(recipe.options.teacher, folder):
        if _opens(partial(open_teacher, taught.source, known=taught)):
            return recipe.taught_by(taught)
    return recipe


def _placed(there: Placed | None, folder: Path) -> Iterator[Placed]:
    """A model whose source is `./NAME` at each place where such a thing lies: here and beside `folder`.  Not `folder`
    itself, for an export may be called as its base is."""
    if there is None or not there.source.startswith("./"):
        return
    own, name = folder.resolve(), Path(there.source)
    for place in dict.fromkeys((name.absolute(), folder.absolute().parent / name)):
        if place.exists() and place.resolve() != own:
            yield there.model_copy(update={"source": str(place)})


def _opens(load: Callable[[], object]) -> bool:
    """Whether what lies there can be loaded, as the very model that is meant."""
    try:
        load()
    except InputError:
        return False
    return True


def systems_beside(
    trained: Embedder, *, base: Recipe | None, dims: int | None = None, quantized: bool = False
) -> dict[str, System]:
    """The trained model, `quantized` too where that is asked, and BM25, with its untrained base and that base's token
    table where the recipe is known; embeddings by their first `dims` dimensions, or all."""
    systems: dict[str, System] = {}
    if base is not None:
        encoder = Encoder(load_base(base), base.pooling, base.options.prompts)
        untrained = replace(trained, encoder=encoder.to(next(trained.encoder.parameters()).device))
        systems["base, untrained"] = DenseSystem(untrained, dims=dims)
        systems["static table"] = Static(untrained)
    systems["BM25"] = BM25()
    dense = DenseSystem(trained, dims=dims)
    return systems | {TRAINED: dense} | (_smaller(TRAINED, dense) if quantized else {})


def _smaller(name: str, system: EmbeddingSystem) -> dict[str, System]:
    return {f"{name}, int8": Quantized(system, "int8"), f"{name}, binary": Quantized(system, "binary")}
