"""A run with a teacher: its loss and gradient, what it costs, where its vectors are kept, and exact resume."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

import isoembed
from isoembed import recommend
from isoembed.core import InputError, StoppedError
from isoembed.data.batches import Batch
from isoembed.data.dataset import PairData, prepare
from isoembed.data.order import ordered
from isoembed.data.sources import open_source
from isoembed.data.vectors import TextVectors
from isoembed.encoder.config import resolve
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import pad
from isoembed.encoder.teacher import teacher
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.encoder.worker_pool import WorkerPool
from isoembed.families import NANO
from isoembed.methods import Full
from isoembed.options import Options, Teacher, TeacherLoss
from isoembed.recipe import PartialSetup, Recipe, Setup, solve
from isoembed.records import RunRecord
from isoembed.training import teacher as reading
from isoembed.training.distillation import distillation_loss
from isoembed.training.execution import Execution
from isoembed.training.gradients import Memory, accumulate_gradients
from isoembed.training.loop import run
from isoembed.training.objective import Objective
from isoembed.training.teacher import read_by_teacher
from tests.commands import command, mistake, ok
from tests.training.small import (
    MODEL,
    StopAfter,
    assert_same_gradients,
    batch_ids,
    gradients,
    small_data,
    small_encoder,
)

CPU = torch.device("cpu")
#: dimensions of the teacher of the tests on the small encoder
WIDTH = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PairData:
    return small_data(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    """The next larger nano model, untrained, as a sentence-transformers folder."""
    folder = tmp_path_factory.mktemp("teachers") / "wide"
    Embedder.load(NANO.models[1].source).save(folder)
    return teacher(folder)


def vectors(rows: int, width: int, seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def described(**fields: Any) -> Teacher:
    return Teacher(**{"source": "./t", "weights": "w", "params": 10, "width": WIDTH, "context": 64, **fields})


def taught(
    data: PairData, options: Options, *, pairs: float = 100, unique: int | None = None
) -> tuple[Recipe, PairData]:
    """A recipe of batches of 16 pairs for so many pairs, with what its teacher costs."""
    setup = Setup(batch_pairs=16, context_tokens=32, options=options)
    read = read_by_teacher(data if unique is None else replace(data, train=data.train[:unique]), setup)
    stats = read.stats if unique is None else read.stats.model_copy(update={"pairs": unique})
    assert options.teacher is not None
    known = options.teacher.params * 2 * (stats.teacher_tokens or 0) * min(pairs, stats.pairs or pairs)
    flop = known + Full().cost(MODEL).flop_per_token * pairs * stats.tokens_per_pair
    return solve(flop, MODEL, Full(), 3e-3, setup, stats, family="nano"), replace(read, stats=stats)


# ---- the loss ----


def test_losses_are_those_written_out() -> None:
    """A sum in place of a mean, sides swapped, or a tile left out."""
    student, known = (vectors(7, 16, 0), vectors(7, 16, 1)), (vectors(7, 5, 2), vectors(7, 5, 3))
    linear = nn.Linear(16, 5, bias=False)
    mapped, goal = linear(torch.cat(student)), torch.cat(known)
    expected: dict[TeacherLoss, Any] = {
        "cosine": (1 - (mapped * goal).sum(1) / mapped.norm(dim=1)).mean(),
        "mse": ((mapped - goal) ** 2).sum() / 14,
    }
    own, other = student[0] @ student[1].T / 0.1, known[0] @ known[1].T / 0.1
    by_row = [(p := t.softmax(1)) * (p.log() - s.softmax(1).log()) for s, t in ((own, other), (own.T, other.T))]
    expected["kl"] = sum(part.sum() for part in by_row) / 14
    for name, value in expected.items():
        projection = None if name == "kl" else linear
        found = distillation_loss(student, known, name, temperature=0.1, projection=projection, tile_logits=14)
        torch.testing.assert_close(found, value)


@pytest.mark.parametrize("loss", ["cosine", "mse", "kl"])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_cached_gradient_is_the_plain_one(loss: Any, weight: float) -> None:
    """Of the model and of the projection, whose gradient only the loss itself makes."""
    encoder = small_encoder()
    encoder.projection = nn.Linear(16, WIDTH, bias=False)
    query, positive = batch_ids(6)
    known = (vectors(6, WIDTH, 4), vectors(6, WIDTH, 5))
    texts = np.arange(12).astype(np.uint64)
    batch = Batch(query, positive, texts[:6], texts[6:], teacher=(known[0].numpy(), known[1].numpy()))
    options = Options(teacher=described(loss=loss, weight=weight))
    loss_of = Objective(0.1, options, encoder.projection).of(batch, CPU)
    plain = loss_of(encoder(*pad(query, 0)), encoder(*pad(positive, 0)))
    plain.backward()
    expected = gradients(encoder)
    encoder.zero_grad()
    memory = Memory(mini_batch_tokens=32, kept_tokens=32)
    found = accumulate_gradients(WorkerPool(encoder), query, positive, loss_of, memory)
    assert found.loss == pytest.approx(plain.item(), rel=1e-5)
    assert ("projection.weight" in expected) == (loss != "kl")
    assert_same_gradients(expected, gradients(encoder))


def test_weight_shares_the_loss() -> None:
    student, known = (vectors(6, WIDTH, 0), vectors(6, WIDTH, 1)), (vectors(6, WIDTH, 2), vectors(6, WIDTH, 3))
    texts = np.arange(12).astype(np.uint64)
    batch = Batch([], [], texts[:6], texts[6:], teacher=(known[0].numpy(), known[1].numpy()))

    def at(weight: float) -> float:
        return Objective(0.1, Options(teacher=described(weight=weight))).of(batch, CPU)(*student).item()

    alone = Objective(0.1).of(batch, CPU)(*student).item()
    assert at(0.25) == pytest.approx(0.25 * at(1.0) + 0.75 * alone, rel=1e-5)


# ---- identity ----


def test_only_what_a_teacher_is_makes_a_run(data: PairData, wide: Teacher) -> None:
    """Neither a field at its default nor the folder that a teacher lies in may change a key."""
    setup = Setup(batch_pairs=16, context_tokens=32)

    def key(options: Options) -> str:
        found = solve(1e12, MODEL, Full(), 3e-3, setup, data.stats, family="nano")
        return found.model_copy(update={"options": options}).key

    moved, other = (wide.model_copy(update=change) for change in ({"source": "/elsewhere"}, {"weights": "0"}))
    assert key(Options(teacher=moved)) == key(Options(teacher=wide)) != key(Options(teacher=other)) != key(Options())
    assert "teacher" not in setup.model_dump(mode="json", exclude_defaults=True).get("options", {})
    assert Options(teacher=moved) == Options(teacher=wide) != Options(teacher=other)
    half = wide.model_copy(update={"weight": 0.5})
    assert key(Options(teacher=half, mask_by="teacher")) != key(Options(teacher=half))


# ---- what it costs ----


@pytest.mark.parametrize(("pairs", "unique"), [(96, None), (96, 32)])
def test_budget_pays_the_teacher_once(
    pairs: int, unique: int | None, data: PairData, wide: Teacher, tmp_path: Path
) -> None:
    """Over one epoch and over three of them: what both spend is the budget to within a step."""
    planned, read = taught(data, Options(teacher=wide), pairs=pairs, unique=unique)
    assert planned.pairs == pytest.approx(pairs, rel=1e-3)
    _, record = run(planned, read, tmp_path)
    per_pair = 2 * wide.params * (planned.data.teacher_tokens or 0)
    assert record.teacher_flop == pytest.approx(per_pair * (unique or pairs), rel=0.02 if unique is None else 1e-9)
    a_step = 16 * (per_pair + planned.cost.flop_per_token * planned.data.tokens_per_pair)
    assert abs(record.model_flop + record.teacher_flop - planned.total_flop) < a_step
    assert planned.total_flop == planned.flop + planned.teacher_flop > planned.flop
    alone = solve(
        planned.total_flop, MODEL, Full(), 3e-3, Setup(batch_pairs=16, context_tokens=32), read.stats, family="n"
    )
    assert planned.train_tokens < alone.train_tokens


def test_budget_is_spent_where_a_source_repeats(wide: Teacher, tmp_path: Path) -> None:
    """Half of the batches are of 32 long pairs, which the teacher reads in a seventh of the run: they were paid as
    often as they came, and their lengths counted by their pairs."""
    for name, count, words in (("long", 32, 12), ("short", 400, 2)):
        texts = [(f"which {name} is {n}?", f"{name} {'and more ' * words}{n}") for n in range(count)]
        rows = "".join(json.dumps({"query": query, "pos": positive}) + "\n" for query, positive in texts)
        (tmp_path / f"{name}.jsonl").write_text(rows)
    source = open_source(f"{tmp_path}/long.jsonl,{tmp_path}/short.jsonl", whole=True)
    tokenizer = load_tokenizer(MODEL.source)
    pairs = prepare(source, tokenizer, context_tokens=32, folder=tmp_path / "tokens", heldout_pairs=0)
    setup = Setup(batch_pairs=16, context_tokens=32, options=Options(batch_by="source", source_alpha=0, teacher=wide))
    read = read_by_teacher(ordered(pairs, setup), setup)
    # an epoch by hand: 28 batches, 14 of each source; the teacher's tokens are the student's, plus no prompt
    length_N = pairs.store.kept_tokens("query").astype(int) + pairs.store.kept_tokens("positive")
    by_source = [length_N[pairs.store.column("source") == number].mean() for number in (0, 1)]
    step_flop = 16 * Full().cost(MODEL).flop_per_token * float(np.mean(by_source))
    read_flop = [2 * wide.params * float(tokens) for tokens in by_source]
    flop = 28 * step_flop + 32 * read_flop[0] + 14 * 16 * read_flop[1]
    planned = solve(flop, MODEL, Full(), 3e-3, setup, read.stats, family="nano")
    assert planned.steps == 28
    _, record = run(planned, read, tmp_path / "run")
    assert abs(record.steps - 28) <= 1
    assert abs(record.model_flop + record.teacher_flop - flop) < step_flop + 16 * read_flop[1]


def test_vectors_are_computed_once(
    data: PairData, wide: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run reads them from the cache, one on more pairs computes the rest; each pays for all that it sees."""
    read_rows: list[int] = []
    compute = reading._read

    def counted(embedder: Any, store: Any, rows: Any, context: int) -> Any:
        read_rows.append(len(rows))
        return compute(embedder, store, rows, context)

    monkeypatch.setattr(reading, "_read", counted)
    options = Options(teacher=wide.model_copy(update={"loss": "kl", "weight": 0.25}))
    planned, read = taught(replace(data), options, pairs=64)
    used = replace(read, store=replace(read.store, folder=_copied(read.store.folder, tmp_path)))
    records: list[RunRecord] = [run(planned, used, tmp_path / name)[1] for name in "ab"]
    assert read_rows == [64]
    assert records[0].teacher_flop == records[1].teacher_flop > 0
    assert [point.loss for point in records[0].loss_curve] == [point.loss for point in records[1].loss_curve]
    more, _ = taught(replace(data), options, pairs=128)
    assert run(more, used, tmp_path / "c")[1].teacher_flop > records[0].teacher_flop
    assert read_rows == [64, 64]


def _copied(folder: Path, place: Path) -> Path:
    """The same store in a folder of its own, so that no other test's vectors lie beside it."""
    (place / folder.name).symlink_to(folder)
    return place / folder.name


def test_the_first_writer_of_a_row_is_believed(tmp_path: Path) -> None:
    """Two processes that embed the same row may differ in the last bit; a resumed run must see what it saw before."""
    rivals = [TextVectors.open(tmp_path, rows=9, width=2) for _ in range(2)]
    for number, rival in enumerate(rivals):
        rows = np.array([3, 5 + number])
        rival.add(rows, np.full((2, 2), number + 1), np.full((2, 2, 2), float(number)))
    found = TextVectors.open(tmp_path, rows=9, width=2)
    assert found.missing(np.arange(9)).tolist() == [0, 1, 2, 4, 7, 8]
    assert found.of(np.array([6, 3, 5]))[0][:, 0].tolist() == [1.0, 0.0, 0.0]
    assert found.tokens_of(np.array([3, 6])) == 2 * 1 + 2 * 2
    (tmp_path / "part-00001.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match="damaged"):
        TextVectors.open(tmp_path, rows=9, width=2)


# ---- a run ----


def test_resumed_is_bitwise_uninterrupted(data: PairData, wide: Teacher, tmp_path: Path) -> None:
    """The projection and its moments are in the checkpoint."""
    assert wide.width != MODEL.hidden
    planned, read = taught(data, Options(teacher=wide.model_copy(update={"weight": 0.5}), mask_by="teacher"))
    whole_encoder, whole = run(planned, read, tmp_path / "whole")
    with pytest.raises(StoppedError):
        run(planned, read, tmp_path / "part", callbacks=[StopAfter(3)])
    encoder, part = run(planned, read, tmp_path / "part", execution=Execution(resume=True))
    assert [point.loss for point in part.loss_curve] == [point.loss for point in whole.loss_curve]
    expected = whole_encoder.state_dict()
    assert "projection.weight" in expected
    assert all(torch.equal(value, expected[name]) for name, value in encoder.state_dict().items())


def test_another_teacher_at_resume_is_named(wide: Teacher, tmp_path: Path) -> None:
    """The refusal said the same of both recipes: neither a teacher's name nor its loss had changed."""
    shutil.copytree(wide.source, tmp_path / "t")
    pairs = [(f"what is item {n}?", f"item {n} costs {n * 7} coins") for n in range(100)]

    def asked() -> Any:
        setup = PartialSetup(batch_pairs=8, options=Options(teacher=teacher(tmp_path / "t", weight=0.5)))
        return recommend(2e9, "nano", model="nano-28k", method="full", setup=setup)

    with pytest.raises(StoppedError):
        isoembed.train(asked(), pairs, tmp_path / "out", callbacks=[StopAfter(2)])
    weights = load_file(tmp_path / "t" / "model.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.ndim == 2)
    save_file({**weights, name: weights[name] + 1}, tmp_path / "t" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="begun with another: other weights, configuration, tokenizer or pooling of"):
        isoembed.train(asked(), pairs, tmp_path / "out", execution=Execution(resume=True))


def test_how_a_teacher_computes_is_part_of_what_it_is(wide: Teacher, tmp_path: Path) -> None:
    """Vectors of one configuration were taken from the cache for another of the same weights, under one key."""
    same = shutil.copytree(wide.source, tmp_path / "same")
    assert teacher(same).weights == wide.weights
    other = shutil.copytree(wide.source, tmp_path / "other")
    file = other / "config.json"
    kept = file.read_text()
    for added in ({"transformers.js_config": {"dtype": "fp16"}}, {"tokenizer_class": "T"}, {"license": "mit"}):
        file.write_text(json.dumps(json.loads(kept) | added))  # what others add computes nothing
        assert teacher(other).weights == wide.weights
    for field, value in (("hidden_act", "relu"), ("layer_norm_eps", 0.1), ("use_parallel_residual", False)):
        file.write_text(json.dumps(json.loads(kept) | {field: value}))
        assert teacher(other).weights != wide.weights
        assert Embedder.load(other).identity != Embedder.load(same).identity
        file.write_text(kept)
    assert teacher(other).weights == wide.weights


def test_a_base_that_computes_otherwise_at_resume_is_refused(data: PairData, tmp_path: Path) -> None:
    """Its weights are those that the recipe names; the run would go on as another model."""
    base = shutil.copytree(resolve(MODEL.source), tmp_path / "base")
    planned = solve(
        2e9, MODEL.model_copy(update={"source": str(base)}), Full(), 3e-3, Setup(batch_pairs=16, context_tokens=32),
        data.stats, family="nano",
    )  # fmt: skip
    with pytest.raises(StoppedError):
        run(planned, data, tmp_path / "part", callbacks=[StopAfter(2)])
    file = base / "config.json"
    kept = file.read_text()
    for change in ({"hidden_act": "relu"}, {"hidden_dropout": 0.5}):
        file.write_text(json.dumps(json.loads(kept) | change))
        with pytest.raises(
            InputError, match=r"must compute as it did .* configuration has changed\. Put back its config"
        ):
            run(planned, data, tmp_path / "part", execution=Execution(resume=True))
    file.write_text(json.dumps(json.loads(kept) | {"transformers.js_config": {"dtype": "fp16"}}))  # as hubs add it
    assert run(planned, data, tmp_path / "part", execution=Execution(resume=True))[1].steps > 2


def test_trained_from_the_command_line(wide: Teacher, tmp_path: Path) -> None:
    """What is exported has no projection, says what the teacher cost, and names no folder of this machine."""
    small_data(tmp_path)
    out, place = tmp_path / "out", ["--data", str(tmp_path / "pairs.jsonl"), "--cache", str(tmp_path / "cache")]
    setup = ["--batch-pairs", "16", "--context-tokens", "32", "--teacher-weight", "0.5", "--mask-by", "teacher"]
    asked = ["--budget", "2e9", "--family", "nano", "--model", MODEL.name, "--method", "full", *setup, *place]
    shown = ok("train", *asked, "--teacher", wide.source, "--out", str(out))
    assert "of its teacher's" in shown
    done = command("train", *asked, "--teacher", wide.source, "--out", str(out), "--dry-run", "--quiet")
    assert (done.status, done.err) == (0, "")  # no bar of the teacher's weights
    record = RunRecord.load(out / "record.json")
    assert record.teacher_flop > 0
    assert record.recipe.options.teacher is not None
    assert record.recipe.options.teacher.source == "./wide"
    assert f"{record.teacher_flop:.4g}" in (out / "README.md").read_text()
    with safe_open(out / "model.safetensors", "pt") as tensors:
        assert not [name for name in [*tensors.keys()] if "projection" in name]
    assert not list(out.rglob("part-*.npy"))
    for file in ("recipe.json", "record.json"):
        says = mistake("train", "--recipe", str(out / file), *place, "--out", str(tmp_path / "x"), "--dry-run")
        assert f"The recipe's teacher ./wide, unchanged, must be here or beside {out}" in says
    shutil.copytree(wide.source, tmp_path / "wide")
    ok("train", "--recipe", str(out / "recipe.json"), *place, "--out", str(tmp_path / "x"), "--dry-run")


def test_a_guide_without_a_contrastive_part_is_read_from_earlier_files(data: PairData, tmp_path: Path) -> None:
    whole = Options(teacher=described(), mask_by="self")
    recipe = solve(1e12, MODEL, Full(), 3e-3, Setup(batch_pairs=16, context_tokens=32, options=whole), data.stats,
                   family="nano")  # fmt: skip
    earlier = recipe.model_copy(update={"options": whole.model_copy(update={"mask_by": "teacher"})})
    (tmp_path / "recipe.json").write_text(earlier.model_dump_json())
    assert Recipe.load(tmp_path / "recipe.json").key == earlier.key != recipe.key


# ---- refusals ----


def test_bad_teachers_are_one_line(data: PairData, wide: Teacher, tmp_path: Path) -> None:
    tmp_path.joinpath("empty").mkdir()
    for source in (tmp_path / "empty", MODEL.source, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="`teacher`") as error:
            teacher(source)
        assert "\n" not in str(error.value)
        assert "`model`" not in str(error.value)
    with pytest.raises(InputError, match="loss"):
        teacher(wide.source, loss="l1")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="weight"):
        teacher(wide.source, weight=1.5)
    short = Options(teacher=wide.model_copy(update={"context": 16}))
    with pytest.raises(InputError, match="within the teacher's 16"):
        taught(data, short)
    with pytest.raises(InputError, match="neither"):
        Options(teacher=wide.model_copy(update={"weight": 0.0}))
    with pytest.raises(InputError, match="needs a teacher"):
        Options(mask_by="teacher")
    with pytest.raises(InputError, match="matryoshka"):
        Options(teacher=wide, matryoshka=(8,))
    with pytest.raises(InputError, match=r"`mask_by=teacher` leaves candidates out.*no part at `teacher_weight` 1"):
        Options(teacher=wide, mask_by="teacher")
    with pytest.raises(InputError, match="37% of it for the teacher wide to read them; leave `teacher` out"):
        solve(1e6, MODEL, Full(), 3e-3, Setup(batch_pairs=16, context_tokens=32, options=Options(teacher=wide)),
              data.stats, family="nano")  # fmt: skip
    other = Options(teacher=wide.model_copy(update={"weights": "0" * 16}))
    with pytest.raises(InputError, match="is not the one that the recipe was made for: its weights, its configuration"):
        taught(data, other)
    says = mistake("recipe", "--budget", "1e12", "--teacher", str(tmp_path / "empty"))
    assert len(says.splitlines()) == 1
    assert "--teacher" in mistake("recipe", "--budget", "1e12", "--teacher-weight", "0.5")
    wrong = [("loss", "l1", "teacher_loss"), ("weight", float("nan"), "teacher_weight")]
    for field, value, says_so in wrong:
        with pytest.raises(InputError, match=says_so):
            described(**{field: value})
