"""The options of the command line, in groups that commands share: each option is declared once, as a field of a frozen
value that also turns its group into what the packages below take."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from isoembed.budget import DEVICES, Budget, device_named
from isoembed.cli import terminal
from isoembed.cli.parse import size_in_bytes, source_prompts
from isoembed.core import InputError
from isoembed.families import FAMILIES, Family
from isoembed.fitting.io.law_file import LawSet
from isoembed.methods import Adapters, Method, method_named, names
from isoembed.options import PLAIN, Options, Prompts, Teacher, dims_named
from isoembed.recipe import EarlyStopping, PartialSetup
from isoembed.recommendation.constraints import Constraints
from isoembed.recommendation.request import Request
from isoembed.workflows import models

if TYPE_CHECKING:
    from isoembed.training.execution import Execution
    from isoembed.workflows.job import DataOptions

#: names that others give to options of ours: taken, and not shown
ALIASES = {
    "--batch-size": "--batch-pairs",
    "--max-seq-length": "--context-tokens",
    "--lora-r": "--rank",
    "--lora-alpha": "--alpha",
    "--lr": "--learning-rate",
    "--num-train-epochs": "--epochs",
    "--early-stopping-patience": "--patience",
    "--thin": "--prune",
    "--max-passes": "--max-pair-epochs",
}

# ---- single options ---------------------------------------------------------------------------------------------


def switch(name: str, told: str, *short: str) -> Any:
    """A switch that can be turned off again, where a job file turned it on."""
    return typer.Option(f"--{name}/--no-{name}", *short, help=told, show_default=False)


AsJson = Annotated[bool, typer.Option("--json", help="print JSON", rich_help_panel="Output")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="say what would be done, and what it costs, and stop", rich_help_panel="Output"),
]
ContextTokens = Annotated[
    int | None,
    typer.Option(
        max=2**31 - 1, help="longest query or positive in tokens; default: the family's", rich_help_panel="Training"
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="folder for tokenised data and checkpoints; default: ISOEMBED_CACHE, or ~/.cache/isoembed; of a sweep, "
        "in --out",
        rich_help_panel="Data",
    ),
]

PrecisionName = Annotated[
    str,
    typer.Option(
        help="of the products: fp32, bf16 (weights, sums and the loss stay fp32), or auto: the faster one here for the "
        "model",
        rich_help_panel="Execution",
    ),
]


@dataclass(frozen=True, kw_only=True)
class SayingOptions:
    """How much is said."""

    panel: ClassVar[str] = "Output"

    explain: Annotated[bool, switch("explain", "say all: how the recipe was chosen, every cost")] = False
    quiet: Annotated[bool, switch("quiet", "say nothing but errors", "-q")] = False
    verbose: Annotated[bool, switch("verbose", "let the libraries log what they do", "-v")] = False


# ---- groups -----------------------------------------------------------------------------------------------------


#: to state a budget, of which one is given
WAYS = ("budget", "hours", "dollars")


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """A budget in FLOP, in hours of devices, in money or in epochs."""

    panel: ClassVar[str] = "Budget"

    budget: Annotated[str | None, typer.Option(help="training budget in FLOP, as 1.5e18")] = None
    gpu: Annotated[
        str | None, typer.Option(help=f"what the budget buys: {', '.join(device.name for device in DEVICES)}")
    ] = None
    count: Annotated[int, typer.Option(min=1, help="number of GPUs")] = 1
    hours: Annotated[float | None, typer.Option(help="budget as hours on --count GPUs")] = None
    utilisation: Annotated[float | None, typer.Option(help="share of peak that your training reaches (MFU)")] = None
    dollars: Annotated[float | None, typer.Option(help="budget as money")] = None
    dollars_per_hour: Annotated[float | None, typer.Option(help="price of one GPU for an hour")] = None
    epochs: Annotated[
        float | None,
        typer.Option(help="epochs of the pairs at most, as 3; with --model and no other budget, exactly so many"),
    ] = None

    def value(self) -> Budget:
        """The budget; raises InputError unless it is stated in exactly one way."""
        given = [f"--{name}" for name in WAYS if getattr(self, name) is not None]
        if not given and self.epochs is not None:
            return Budget.from_epochs(self.epochs)
        if len(given) != 1:
            raise InputError(
                "Exactly one of --budget, --hours and --dollars must be given, or --epochs alone; got "
                f"{' and '.join(given) or 'none'}."
            )
        if self.budget is not None:
            return Budget.parse(self.budget, count=self.count, utilisation=self.utilisation)
        if self.gpu is None:
            raise InputError(f"`{given[0]}` must come with --gpu: FLOP follow from its speed. Give one, as --gpu h100.")
        device_named(self.gpu)  # by the name of its option
        if self.hours is not None:
            return Budget.from_devices(self.gpu, count=self.count, hours=self.hours, utilisation=self.utilisation)
        if self.dollars_per_hour is None or self.dollars is None:
            raise InputError("`--dollars` must come with `--dollars-per-hour`, the price of one GPU for an hour.")
        return Budget.from_dollars(
            self.dollars, self.dollars_per_hour, device=self.gpu, count=self.count, utilisation=self.utilisation
        )

    def with_device(self, device: str | None) -> tuple[BudgetOptions, str | None]:
        """These options and torch's `device`; the name of a GPU there, where it once stood, is the `gpu`."""
        named = replace(self, gpu=None if self.gpu is None else self.gpu.lower())
        if not is_a_gpu(device):
            return named, device
        assert device is not None
        gpu = named.gpu or device.lower()
        terminal.complain(f"`--device` is torch's device; taken as --gpu {gpu}, which says what is paid for.")
        return replace(named, gpu=gpu), None


def is_a_gpu(name: str | None) -> bool:
    """Whether `name`, in whatever case, is that of a device whose price and peak are known."""
    return name is not None and name.lower() in [device.name for device in DEVICES]


@dataclass(frozen=True, kw_only=True)
class NameOptions:
    """The base model."""

    panel: ClassVar[str] = "Model"

    family: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(f.name for f in FAMILIES)}; or MODEL@, one model cut to its first blocks; any (recipe): "
            "all of them side by side"
        ),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(help="a model of the family, a hub id, a folder or a GGUF file; MODEL@6: its first 6 blocks"),
    ] = None
    depth: Annotated[int | None, typer.Option(help="of --model the first so many blocks alone, as MODEL@6")] = None

    def chosen(self, budget: Budget | None = None) -> tuple[Family, str | None]:
        """The family, and the model's name in it where one was asked for."""
        return models.chosen(self.family, self.model, self.depth, budget=budget)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(NameOptions):
    """The base model, and the method that trains it."""

    method: Annotated[str | None, typer.Option(help=f"{', '.join(names())}; default: the law's, or the rule's")] = None
    fraction: Annotated[
        float | None, typer.Option(help="freeze, lora-top: active share of the blocks; default: the law's, or .5")
    ] = None
    rank: Annotated[int | None, typer.Option(help="lora and its variants: rank; default: the law's, or 32")] = None
    alpha: Annotated[float | None, typer.Option(help="lora and its variants: alpha")] = None
    resize_embeddings: Annotated[
        bool,
        switch("resize-embeddings", "grow the token table so that every token of the tokenizer has a row"),
    ] = False

    def chosen_and_grown(self, budget: Budget | None = None) -> tuple[Family, str | None, bool]:
        """The family, the model's name where one was asked for, and whether its token table was grown."""
        family, name = self.chosen(budget)
        family, is_grown = models.grown(family, self.resize_embeddings)
        return family, name, is_grown

    def chosen_method(self) -> Method | None:
        """The method; None where none was named."""
        hyperparameters = {"--fraction": self.fraction, "--rank": self.rank, "--alpha": self.alpha}
        if self.method is None:
            if given := [name for name, value in hyperparameters.items() if value]:
                raise InputError(f"{' and '.join(given)} must come with --method; name the method too.")
            return None
        method = method_named(self.method, fraction=self.fraction, rank=self.rank, alpha=self.alpha)
        if isinstance(method, Adapters) and self.rank is not None and self.alpha is None:
            return method.model_copy(update={"alpha": type(method)().resized(self.rank).alpha})  # that goes with it
        return method


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """What stands in front of texts."""

    panel: ClassVar[str] = "Training"

    query_prompt: Annotated[str, typer.Option(help="put in front of every query")] = ""
    positive_prompt: Annotated[str, typer.Option(help="put in front of every positive, hard negative and document")] = (
        ""
    )
    source_prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:SIDE=TEXT",
            help="put in front of the queries (SIDE query) or all other texts (positive) of the source of that name in "
            "place of these; repeat for more",
        ),
    ] = None

    def value(self, *, pooled: bool) -> Prompts:
        """The same for a recipe."""
        own = source_prompts(self.source_prompt)
        return Prompts.of(self.query_prompt, self.positive_prompt, pooled=pooled, sources=own)


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """The model that is learned from, and how."""

    panel: ClassVar[str] = "Training"

    teacher: Annotated[
        str | None,
        typer.Option(help="distil from this sentence-transformers folder or hub id; its FLOP are paid from the budget"),
    ] = None
    teacher_loss: Annotated[str | None, typer.Option(help="cosine, mse or kl; default: cosine")] = None
    teacher_weight: Annotated[
        float | None, typer.Option(help="0 to 1, of the teacher's loss; the contrastive one has the rest; default: 1")
    ] = None

    def value(self) -> Teacher | None:
        """The teacher, opened; None where none was named."""
        given = {"loss": self.teacher_loss, "weight": self.teacher_weight}
        given = {name: value for name, value in given.items() if value is not None}
        if self.teacher is None:
            if given:
                raise InputError("`--teacher-loss` and `--teacher-weight` are of a teacher; give --teacher too.")
            return None
        from isoembed.encoder.teacher import teacher

        terminal.no_library_bars()
        return Teacher(**{**dict(teacher(self.teacher)), **given})


@dataclass(frozen=True, kw_only=True)
class SetupOptions:
    """How a model is trained, beside its method and rate: what losses depend on, and laws hold for."""

    panel: ClassVar[str] = "Training"

    batch_pairs: Annotated[int | None, typer.Option(help="pairs per batch; default: the family's")] = None
    context_tokens: ContextTokens = None
    temperature: Annotated[float | None, typer.Option(help="of the contrastive loss; default: the law's, or 0.025")] = (
        None
    )
    pooling: Annotated[
        str | None,
        typer.Option(help="mean, last (an end-of-text token) or max; default: the law's or mean"),
    ] = None
    mask_margin: Annotated[
        float | None,
        typer.Option(hidden=True, help="of earlier versions: refused"),
    ] = None
    matryoshka: Annotated[
        str | None, typer.Option(help="first dimensions that must do alone, as 256,128, beside the whole embedding")
    ] = None
    dimensions: Annotated[
        int | None, typer.Option(help="of the embedding, by a learned projection; default: the model's own width")
    ] = None
    mask_by: Annotated[
        str, typer.Option(help="teacher: candidates that it finds nearer than the positive are left out; default: self")
    ] = "self"
    hardness_strength: Annotated[
        float,
        typer.Option(help="weigh a negative by exp(this times its cosine), so that near ones count more; 5 is usual"),
    ] = 0.0
    batch_by: Annotated[
        str,
        typer.Option(
            help="batches of a mixture: mixed, each of one source, or of one cluster of one source (--clusters)",
            rich_help_panel="Data",
        ),
    ] = "mixed"
    clusters: Annotated[
        int | None,
        typer.Option(help="with --batch-by cluster: how many, over all sources", rich_help_panel="Data"),
    ] = None
    source_alpha: Annotated[
        float | None,
        typer.Option(
            help="temperature sampling, with --batch-by source or cluster: all of every source, its share of the "
            "batches by its pairs to this power (1/T); 1: by size, 0: equal; default: what the mixture's weights leave "
            "of each",
            rich_help_panel="Data",
        ),
    ] = None
    ema_decay: Annotated[
        float | None,
        typer.Option(help="keep the exponential moving average of the weights, of this decay a step, in their place"),
    ] = None
    schedule: Annotated[
        str, typer.Option(help="of the learning rate: cosine, or wsd: constant, falling at the end (--extend)")
    ] = "cosine"
    decay_fraction: Annotated[
        float, typer.Option(help="with --schedule wsd: share of the tokens over which the rate falls")
    ] = 0.4
    bidirectional: Annotated[
        bool,
        switch("bidirectional", "every token attends to the whole text, where the architecture can"),
    ] = False
    teacher: TeacherOptions = field(default_factory=TeacherOptions)
    prompts: PromptOptions = field(default_factory=PromptOptions)
    pool_prompt: Annotated[
        bool, typer.Option("--pool-prompt/--no-pool-prompt", help="pool over a prompt's tokens too")
    ] = True

    def value(self, *, resize_embeddings: bool = False) -> PartialSetup:
        """What is named of the setup; raises InputError for what is out of range."""
        options = self.options(resize_embeddings=resize_embeddings)
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name in PartialSetup.model_fields}
        return PartialSetup(**own, options=None if options == PLAIN else options)

    def options(self, *, resize_embeddings: bool = False) -> Options:
        """What the recipe calls its options; raises InputError for one that is out of range."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name in Options.model_fields}
        parsed = {
            "matryoshka": dims_named(self.matryoshka),
            "prompts": self.prompts.value(pooled=self.pool_prompt),
            "teacher": self.teacher.value(),
        }
        return Options(**{**own, **parsed, "resize_embeddings": resize_embeddings})


@dataclass(frozen=True, kw_only=True)
class EarlyStoppingOptions:
    """Which weights are kept, and what ends a run early."""

    panel: ClassVar[str] = "Training"

    keep: Annotated[str, typer.Option(help="weights of the last step, or best: those best on held-out pairs")] = "last"
    patience: Annotated[
        int | None, typer.Option(help="end after so many held-out evaluations without a better one")
    ] = None
    metric_for_best_model: Annotated[
        str, typer.Option(help="what is best: the least held-out loss, or the greatest mrr (mean reciprocal rank)")
    ] = "loss"
    eval_steps: Annotated[
        int | None, typer.Option(help="with --keep best or --patience: steps between evaluations; default: an epoch")
    ] = None

    def value(self) -> EarlyStopping:
        """The same for a recipe; raises InputError for what is out of range."""
        return EarlyStopping(**{each.name: getattr(self, each.name) for each in fields(self)})


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How one model is trained."""

    panel: ClassVar[str] = "Training"

    setup: SetupOptions
    early_stopping: EarlyStoppingOptions
    learning_rate: Annotated[float | None, typer.Option(help="peak learning rate; default: the rule's")] = None
    seed: Annotated[int, typer.Option(help="seed of data order and initialisation")] = 0


@dataclass(frozen=True, kw_only=True)
class RowReadingOptions:
    """How the rows of data are read."""

    panel: ClassVar[str] = "Data"

    query_key: Annotated[str | None, typer.Option(help="name of the query field")] = None
    positive_key: Annotated[str | None, typer.Option(help="name of the positive field")] = None
    on_bad_rows: Annotated[str, typer.Option(help="error or skip")] = "error"
    max_row_bytes: Annotated[int, typer.Option(min=1, max=1 << 30, help="longest row of the data, in bytes")] = 1 << 24

    def of(self, spec: str, heldout: str | None = None) -> DataOptions:
        """The data at `spec`, read so."""
        from isoembed.workflows.job import DataOptions

        return DataOptions(spec, heldout, **{each.name: getattr(self, each.name) for each in fields(self)})


@dataclass(frozen=True, kw_only=True)
class NegativeOptions(RowReadingOptions):
    """How rows are read that may hold hard negatives."""

    negative_key: Annotated[
        str | None, typer.Option(help="name of the field of hard negatives, a text or a list of them")
    ] = None
    negatives: Annotated[
        int | None, typer.Option(help="hard negatives of a row to use at most; 0: none; default: all")
    ] = None


@dataclass(frozen=True, kw_only=True)
class PairsOptions:
    """The pairs to train on, and those held out."""

    panel: ClassVar[str] = "Data"

    data: Annotated[
        str,
        typer.Option(help="docstrings[:all], a .jsonl/.csv/.parquet file, hub:ORG/NAME, or a mixture a:3,b:1"),
    ] = "docstrings"
    heldout: Annotated[str | None, typer.Option(help="held-out pairs; default: split off the data")] = None
    heldout_pairs: Annotated[
        int, typer.Option(min=0, help="held-out pairs at most; fewer cost less to measure, and compare less sharply")
    ] = 4096
    rows: NegativeOptions
    cache: Cache = None

    def value(self) -> DataOptions:
        """Where the pairs come from and how they are read."""
        return replace(self.rows.of(self.data, self.heldout), heldout_pairs=self.heldout_pairs)


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """How a training runs on this machine; nothing here changes its result beyond rounding."""

    panel: ClassVar[str] = "Execution"

    device: Annotated[
        str | None, typer.Option(help="torch's device: cpu, cuda, cuda:1; default: the GPU where there is one")
    ] = None
    memory: Annotated[
        str | None, typer.Option(help="peak of the process (GPU: there), as 4GiB; default: half of free")
    ] = None
    checkpointing: Annotated[bool, switch("gradient-checkpointing", "recompute activations inside the model")] = False
    precision: PrecisionName = "auto"
    compile: Annotated[bool, switch("compile", "torch.compile the blocks: slow at first, then faster")] = False
    shard: Annotated[bool, switch("shard", "under torchrun: cut the parameters over the processes (FSDP2)")] = False
    checkpoint_seconds: Annotated[float, typer.Option(min=0, help="seconds between checkpoints")] = 120.0
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint in --out")] = False

    def value(self, device: str | None, memory_bytes: float | None) -> Execution:
        """The same for the training loop; `device` is torch's."""
        from isoembed.training.execution import Execution

        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("device", "memory")}
        return Execution(device=device, memory_bytes=memory_bytes, **own)


@dataclass(frozen=True, kw_only=True)
class LawOptions:
    """The law to go by."""

    panel: ClassVar[str] = "Law"

    law: Annotated[Path | None, typer.Option(help="law.json of `isoembed fit`; default: the family's own")] = None
    other_settings: Annotated[
        bool, switch("other-settings", "use the law's order although batch, context or options differ from its runs'")
    ] = False

    def value(self) -> LawSet | None:
        """The law in the file; None where none was named."""
        return None if self.law is None else LawSet.load(self.law)


@dataclass(frozen=True, kw_only=True)
class SizeLimitOptions:
    """What limits the sizes to choose from."""

    panel: ClassVar[str] = "Model"

    max_params: Annotated[float | None, typer.Option(help="largest model, in non-embedding parameters")] = None
    max_index_bytes: Annotated[
        float | None,
        typer.Option(
            help="most bytes of a document's vector in fp32: of --dimensions, or of --matryoshka the narrowest"
        ),
    ] = None
    max_query_flop: Annotated[
        float | None, typer.Option(help="most FLOP to embed a query of mean length: 2 N a token")
    ] = None


@dataclass(frozen=True, kw_only=True)
class LimitOptions(SizeLimitOptions):
    """What limits the choice, beside the budget."""

    methods: Annotated[str | None, typer.Option(help="methods allowed, as full,lora")] = None
    serving_tokens: Annotated[
        float,
        typer.Option(
            help="tokens the model will embed in its life; the budget pays for them too", rich_help_panel="Budget"
        ),
    ] = 0.0
    repeats: Annotated[
        str | None,
        typer.Option(
            help="none: one epoch at most; muennighoff: repeat, each repetition worth what it is in pretraining; "
            "measured: worth what it is in the law's own runs; default: none, or as often as --epochs says",
            rich_help_panel="Data",
        ),
    ] = None

    def value(self, *, epochs: float | None = None) -> Constraints:
        """The same for a recommendation of so many epochs at most; raises InputError for one that is out of range."""
        return Constraints(**self._given(), epochs=epochs)

    def _given(self) -> dict[str, Any]:
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**given, "methods": None if self.methods is None else tuple(self.methods.split(","))}


@dataclass(frozen=True, kw_only=True)
class AllLimitOptions(LimitOptions):
    """Limits, with those that data or a device at hand would set."""

    device_memory: Annotated[
        str | None, typer.Option(help="training must fit: a size, as 24GB, or a GPU's name, as h100")
    ] = None
    pairs: Annotated[int | None, typer.Option(help="unique training pairs at hand", rich_help_panel="Data")] = None

    def _given(self) -> dict[str, Any]:
        memory = self.device_memory
        if memory is None:
            return super()._given()
        limit = memory.lower() if is_a_gpu(memory) else size_in_bytes(memory, "--device-memory")
        return {**super()._given(), "device_memory": limit}


def request_of(budget: BudgetOptions, model: ModelOptions, training: TrainingOptions, limits: LimitOptions) -> Request:
    """What these options ask for; raises InputError for what is out of range."""
    spend = budget.value()
    family, name, is_grown = model.chosen_and_grown(spend)
    return Request.of(
        spend,
        family,
        training.setup.value(resize_embeddings=is_grown),
        method=model.chosen_method(),
        model=name,
        learning_rate=training.learning_rate,
        seed=training.seed,
        constraints=limits.value(epochs=budget.epochs),
        early_stopping=training.early_stopping.value(),
    )
