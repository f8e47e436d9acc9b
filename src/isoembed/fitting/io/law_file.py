"""`law.json`: what was fitted, with its uncertainty, its validation, where it came from and where it holds."""

from __future__ import annotations

import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, ValidationError, computed_field, model_validator

from isoembed.core import (
    Count,
    Frozen,
    InputError,
    PositiveInt,
    Summarised,
    checked,
    expanded,
    fingerprint,
    write_atomically,
)
from isoembed.families.base import ModelSpec
from isoembed.fitting.bootstrap import Bootstrap, ComputeOptimum
from isoembed.fitting.drift import Drift, away, below, beyond
from isoembed.fitting.fit import Fit
from isoembed.fitting.holdout import Holdout
from isoembed.fitting.intervals import LEVEL, Interval
from isoembed.fitting.io.sound import unsound
from isoembed.fitting.notes import UNSEALED, FitNote, remark
from isoembed.fitting.repetition import Repetition
from isoembed.fitting.settings import Group, Settings, TestedSetting
from isoembed.fitting.trained_rates import TrainedRate, gathered
from isoembed.fitting.transfer import TransferCheck
from isoembed.fitting.width import MeasuredWidth
from isoembed.laws import law_named
from isoembed.laws.odds import CANDIDATES
from isoembed.methods import Method
from isoembed.notes import Noted

#: written now; of 1 there are files of before there were digests, and those are read too
FORMAT = 2
Format = Annotated[int, Field(strict=True, ge=1, le=FORMAT)]


class Draws(Frozen):
    """The bootstrap's refits, from which every later interval and recommendation is read."""

    seed: Count
    runs: PositiveInt = Field(description="independent runs drawn from")
    tail: float = Field(
        gt=0,
        le=(1 - LEVEL) / 2,
        description="probability that an interval at `level` leaves out on each side, for so many runs",
    )
    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...] = Field(min_length=1)

    @classmethod
    def of(cls, boot: Bootstrap) -> Draws:
        return cls(
            seed=boot.seed,
            runs=boot.runs,
            tail=boot.tail,
            names=boot.law.names,
            values=tuple(tuple(row) for row in boot.theta_BP.tolist()),
        )


class AlternativeLaw(Frozen):
    """Another law that the same runs allow, with its bootstrap: not distinguishable from the first one by its held-out
    error (`isoembed.fitting.study.SAME_ERROR`)."""

    law: str
    fit: Fit
    draws: Draws
    held_error: float = Field(ge=0, description="root mean square over its hold-outs, in ln loss")

    @model_validator(mode="after")
    def _of_one_piece(self) -> Self:
        _check_law(self.law, self.fit, self.draws)
        return self

    @classmethod
    def of(cls, boot: Bootstrap, held_error: float) -> AlternativeLaw:
        return cls(law=boot.law.name, fit=boot.fit, draws=Draws.of(boot), held_error=held_error)


def _check_law(law: str, fit: Fit, draws: Draws | None) -> None:
    names = law_named(law).names
    if fit.law != law or set(fit.params) != set(names):
        raise ValueError(f"`fit` holds the parameters of the {law} law: {', '.join(names)}")
    if draws is not None and draws.names != names:
        raise ValueError(f"`draws` are of the parameters of the {law} law, in its order: {', '.join(names)}")
    if draws is not None and any(len(row) != len(names) for row in (draws.names, *draws.values)):
        raise ValueError(f"each draw of the {law} law is {len(names)} numbers")


class LawFile(Summarised, Noted):
    """One fitted law.  `status` is the fit's, or `biased` where a good fit fails to forecast what was held out."""

    noted: ClassVar = "facts"
    described: ClassVar = {"notes": "remark"}

    format: Format = FORMAT
    law: str
    method: str | None = Field(None, description="the fine-tuning method that the runs share")
    params: dict[str, Interval]
    objective: float
    n_points: PositiveInt
    starts_agreeing: float = Field(ge=0, le=1)
    status: str
    range: dict[str, tuple[float, float]]
    holdout: dict[str, Holdout]
    backtests: tuple[Holdout, ...] = Field(
        (), description="further budgets below the largest, each forecast from those below it, largest first"
    )
    level: float = Field(LEVEL, gt=0, lt=1)
    fit: Fit
    outlier_rows: tuple[int, ...] = Field((), description="rows (from 1) beyond five times the noise; none was dropped")
    without_outliers: Fit | None = Field(None, description="second fit where runs lie beyond five times the noise")
    seed_sd: float | None = Field(
        None, ge=0, description="standard deviation of ln loss between seeds; None without repeats"
    )
    rivals: tuple[Holdout, ...] = Field((), description="hold-outs of the laws it was compared with")
    alternatives: tuple[AlternativeLaw, ...] = Field(
        (),
        alias="forms",
        description="rivals that forecast what was held out about as well: a recommendation draws from them too",
    )
    repetition: Repetition | None = Field(
        None, description="what repeated data are worth; None where no run repeated its data beside a single-epoch one"
    )
    widths: tuple[MeasuredWidth, ...] = Field(
        (), description="what embeddings of fewer dimensions cost, of the models of which there were such runs"
    )
    settings: Settings = Settings()
    trained_rates: tuple[TrainedRate, ...] = Field((), description="the runs' learning rates; none of a table's")
    tested_settings: tuple[TestedSetting, ...] = Field(
        (), alias="tried", description="hyperparameters of which there were runs"
    )
    level_flop: tuple[float, float] | None = Field(
        None,
        description="lowest and highest C of the runs on other pairs that set its level; None on its own pairs",
    )
    facts: tuple[FitNote, ...] = Field((), description="what was seen of the runs behind it, and of its file")
    transfer_checks: tuple[TransferCheck, ...] = Field(
        (), alias="elsewhere", description="what `isoembed validate` saw at other batches, contexts"
    )
    draws: Draws | None
    data_fingerprint: str = Field(description="of the runs that it was fitted to")
    source: str
    versions: dict[str, str]
    digest: str | None = Field(
        None, description="hash of all the rest as it was written, checked and then left out on reading"
    )

    @model_validator(mode="after")
    def _of_one_piece(self) -> Self:
        """What a damaged or hand-made file may get wrong, so that nothing that reads a law has to look again."""
        _check_law(self.law, self.fit, self.draws)
        drawn = 0 if self.draws is None else len(self.draws.values)
        if self.repetition is not None and len(self.repetition.draws) != drawn:
            raise ValueError(f"`repetition` has as many draws as the law: {drawn}")
        ranges = [self.range.get(column, (0.0, 0.0)) for column in ("params", "tokens", "flop")]
        if any(not 0 < low <= high for low, high in ranges):
            raise ValueError("`range` holds positive lowest and highest params, tokens and flop")
        return self

    @classmethod
    def of(
        cls,
        fit: Fit | Bootstrap,
        group: Group,
        *,
        source: str,
        holdouts: tuple[Holdout, ...] = (),
        backtests: tuple[Holdout, ...] = (),
        rivals: tuple[Holdout, ...] = (),
        alternatives: tuple[AlternativeLaw, ...] = (),
        outlier_rows: tuple[int, ...] = (),
        without_outliers: Fit | None = None,
    ) -> LawFile:
        """Collect what a fit to the runs of `group`, or a bootstrap of it, found out."""
        boot = fit if isinstance(fit, Bootstrap) else None
        found = fit.fit if isinstance(fit, Bootstrap) else fit
        plain = {name: Interval(value=value, low=None, high=None) for name, value in found.params.items()}
        told = found.status != "too-few-points"  # resamples of so few runs are all fitted exactly
        biased = found.status == "good" and any(result.verdict == "biased" for result in holdouts)
        return cls(
            law=found.law,
            method=group.method,
            params=boot.intervals() if boot and told else plain,
            objective=found.objective,
            n_points=found.n_points,
            starts_agreeing=found.starts_agreeing,
            status="biased" if biased else found.status,
            range=found.range,
            holdout={result.by: result for result in holdouts},
            backtests=backtests,
            fit=found,
            outlier_rows=outlier_rows,
            without_outliers=without_outliers,
            seed_sd=group.points.seed_sd(),
            rivals=rivals,
            settings=group.settings,
            trained_rates=gathered(group.trained_rates),
            tested_settings=group.tested_settings,
            facts=group.facts,
            draws=None if boot is None else Draws.of(boot),
            alternatives=alternatives,
            data_fingerprint=group.points.fingerprint,
            source=source,
            versions={name: version(name) for name in ("isoembed", "numpy", "scipy")},
        )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def notes(self) -> tuple[str, ...]:
        """What was seen of the runs behind it, and of its file, in words."""
        return self._sentences("remark")

    def with_facts(self, *facts: FitNote) -> LawFile:
        """The law with these behind its own."""
        return self.model_copy(update={"facts": (*self.facts, *facts)})

    def summary(self) -> dict[str, str]:
        """The law, its parameters with their intervals, and how far to trust it."""
        params = {name: interval.describe() for name, interval in self.params.items()}
        points = f"{self.n_points} from {self.source}"
        return {
            "law": self.law,
            "method": self.method or "not named",
            "points": points,
            **params,
            "status": self.describe(),
        }

    @property
    def run_noise(self) -> float:
        """Standard deviation of one more run's ln loss around the law: that of the residuals, and at least that between
        seeds."""
        return max(self.fit.noise, self.seed_sd or 0.0)

    @property
    def drift(self) -> Drift:
        """How forecasts leave the law beyond its budgets, from the back-tests of all held-out budgets."""
        largest = self.holdout.get("largest-budget")
        return Drift.of([*([largest] if largest else []), *self.backtests], self.run_noise)

    def run_noise_at(self, flop: float) -> float:
        """Standard deviation of ln loss of one run of `flop` around the law: `run_noise`, and what back-tests saw
        outside the fitted budgets."""
        drift, (least, most) = self.drift, self.range["flop"]
        above, under = float(beyond(flop, most)), float(below(flop, least))
        method = drift.spread * above + drift.unsigned * under
        return math.hypot(self.run_noise, method, drift.apart * (above + under), float(away(flop, self.level_flop)))

    @property
    def chance(self) -> float:
        """ln K, above which no expected loss lies, where the law or an alternative says K; else infinite."""
        said = (fit.params.get(CANDIDATES) for fit in (self.fit, *(other.fit for other in self.alternatives)))
        return min((math.log(candidates) for candidates in said if candidates), default=math.inf)

    @property
    def standing(self) -> FitNote:
        """The status with every reason behind it, hold-outs included."""
        biased = (each for result in self.holdout.values() if result.verdict == "biased" for each in result.facts)
        return remark("standing", status=self.status, why=(*self.fit.reasons, *biased))

    def describe(self) -> str:
        """The status as a sentence."""
        return self.standing.describe()

    def at(self, batch_pairs: int, context_tokens: int) -> TransferCheck | None:
        """What was seen of the law at that other batch and context; None where it was not checked there."""
        return next((seen for seen in self.transfer_checks if seen.place == (batch_pairs, context_tokens)), None)

    def with_check(self, seen: TransferCheck) -> LawFile:
        """The law with `seen` in place of what was known of that batch and context."""
        others = (known for known in self.transfer_checks if known.place != seen.place)
        return self.model_copy(update={"transfer_checks": (*others, seen)})

    def applies_to(self, method: Method, model: ModelSpec) -> bool:
        """Whether runs of that setting were behind it, or of the method where it reads the trained share."""
        reads_share = "fraction" in law_named(self.law).also_reads
        return any(
            tested.on(model) == method or (reads_share and tested.method.name == method.name)
            for tested in self.tested_settings
        )

    @property
    def unsealed(self) -> bool:
        """Whether its file was of before there were digests."""
        return UNSEALED in self.facts

    def bootstrap(self) -> Bootstrap:
        """The bootstrap that the file holds; raises InputError where it was written without one."""
        if self.draws is None:
            raise InputError("A recommendation needs a law with its bootstrap; use `isoembed fit`, `bootstrap=1000`.")
        values = np.array(self.draws.values)
        return Bootstrap(law_named(self.law), self.fit, values, self.draws.seed, self.draws.runs, self.draws.tail)

    def compute_optimum(self) -> ComputeOptimum | None:
        """N*(C) and D*(C) a tenth of, at and ten times the largest fitted budget, of models trained whole; None where
        the law has no draws, has too few runs, does not read N and D, or has no loss there (its runs trained a small
        share alone)."""
        told = self.draws is not None and self.status != "too-few-points"
        if not told or not {"params", "tokens"} <= set(law_named(self.law).varies):
            return None
        found = self.bootstrap().compute_optimum(self.range["flop"][1] * np.array([0.1, 1.0, 10.0]))
        losses = [size.loss.value for size in found.sizes]
        return found if all(loss is not None and loss > 0.0 for loss in losses) else None

    @property
    def content_digest(self) -> str:
        """Hash of all that the law holds.  Fields at their defaults are left out, so that one added later changes no
        digest written before; and so are the format and, of facts, the sentences: they may be worded anew."""
        held = self.model_dump(mode="json", exclude={"digest", "format"}, exclude_defaults=True, round_trip=True)
        return fingerprint(_with_facts_bare(held))

    @property
    def _digest_of_sentences(self) -> str:
        """The digest of a file that was written before there were facts, and held sentences in their place."""
        held = self.model_dump(mode="json", exclude={"digest", "format"}, exclude_defaults=True)
        if not self.facts:
            del held["notes"]
        return fingerprint(_without_facts(held))

    def sealed(self) -> LawFile:
        """The law with its digest, as it is written."""
        return self.model_copy(update={"digest": self.content_digest, "format": FORMAT})

    def trusted(self, file: Path) -> LawFile:
        """The law as it was before it was written; raises InputError where it was changed since, or cannot be what a
        fit gives (`isoembed.fitting.io.sound`).  A file of before there were digests gets a note."""
        if self.digest is None and self.format > 1:
            why: str | None = "its digest, by which a change would be noticed, was taken out"
        elif self.digest not in (None, self.content_digest, self._digest_of_sentences):
            why = "it was changed after it was written"
        else:
            why = unsound(self)
        if why is not None:
            raise InputError(f"{file} is not a law of any runs: {why}. Fit it again.")
        # a law that was written again holds its sentence
        facts = tuple(UNSEALED if each.describe() == UNSEALED.describe() else each for each in self.facts)
        facts = facts if self.digest or UNSEALED in facts else (*facts, UNSEALED)
        return self.model_copy(update={"digest": None, "format": FORMAT, "facts": facts})

    @checked
    def save(self, file: str | Path) -> None:
        """Write the law with its digest as JSON in full precision, atomically."""
        write_atomically(expanded(file), self.sealed().model_dump_json(indent=1) + "\n")

    @classmethod
    @checked
    def load(cls, file: str | Path) -> LawFile:
        """Read a law; raises InputError naming the file where it is damaged."""
        file = expanded(file)
        try:
            return cls.model_validate_json(_bytes(file)).trusted(file)
        except ValidationError as error:
            raise _damaged(file, error) from None


class LawSet(Summarised):
    """Laws of several methods, fitted one by one to runs of the same settings."""

    format: Format = FORMAT
    laws: tuple[LawFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_law_per_method(self) -> Self:
        methods = [law.method for law in self.laws]
        if len(set(methods)) < len(methods):
            raise ValueError("a set holds one law per method")
        if any(law.settings != self.settings for law in self.laws):
            raise ValueError("the laws of a set share their settings")
        return self

    @property
    def chance(self) -> float:
        """ln K, for the laws share a held-out set: of the one that says it; infinite where none does."""
        return min(law.chance for law in self.laws)

    def summary(self) -> dict[str, str]:
        """One line per law."""
        return {
            law.method or law.law: f"{law.law}, {law.n_points} points from {law.source}, {law.status}"
            for law in self.laws
        }

    @property
    def settings(self) -> Settings:
        """What all runs behind the set have in common."""
        return self.laws[0].settings

    @checked
    def save(self, file: str | Path) -> None:
        """Write the set, or its one law alone, as JSON in full precision, atomically."""
        file = expanded(file)
        if len(self.laws) == 1:
            self.laws[0].save(file)
        else:
            sealed = LawSet(laws=tuple(law.sealed() for law in self.laws))
            write_atomically(file, sealed.model_dump_json(indent=1) + "\n")

    @classmethod
    @checked
    def load(cls, file: LawSet | str | Path) -> LawSet:
        """Read a set, or one law as a set of one; raises InputError naming the file where it is damaged.  A set itself
        as it is."""
        if isinstance(file, LawSet):
            return file
        file = expanded(file)
        text = _bytes(file)
        try:
            found = cls.model_validate_json(text)
            return cls(laws=tuple(law.trusted(file) for law in found.laws))
        except ValidationError as error:
            if "laws" in _keys(text):
                raise _damaged(file, error) from None
        return cls(laws=(LawFile.load(file),))


def _without_facts(held: Any) -> Any:
    """`held` with the sentences of its facts alone, where there are any."""
    if isinstance(held, list):
        return [_without_facts(each) for each in held]
    if not isinstance(held, dict):
        return held
    empty = {name for name in ("why", "simplified") if held.get(name) == ""}
    return {name: _without_facts(value) for name, value in held.items() if name != "facts" and name not in empty}


def _with_facts_bare(held: Any) -> Any:
    """`held` with each fact in it as it was first hashed: without fields where it has none, and a refusal that another
    fact tells of without its kind."""
    if isinstance(held, list):
        return [_with_facts_bare(value) for value in held]
    if not isinstance(held, dict):
        return held
    bare = {"fields": {}, "kind": "refused"} if "code" in held else {}
    return {name: _with_facts_bare(value) for name, value in held.items() if name not in bare or value != bare[name]}


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        raise InputError(f"A law must be a file: {file} cannot be read. Write one with `isoembed fit`.") from None


def _keys(text: bytes) -> set[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return set()
    return set(found) if isinstance(found, dict) else set()


def _damaged(file: Path, error: ValidationError) -> InputError:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if first["loc"][-1:] == ("format",):
        return InputError(
            f"{file} is of format {first['input']!r}, another than this version's {FORMAT}: fit it again, or upgrade."
        )
    return InputError(f"{file} is not a law ({where or 'JSON'}: {first['msg']}); fit it again.")
