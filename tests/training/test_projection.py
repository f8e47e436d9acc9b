"""A learned projection in training: gradients, methods, cost, memory, checkpoints, keys, and a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from isoembed.core import InputError, StoppedError
from isoembed.data.dataset import PairData
from isoembed.encoder.certificate import ExportError
from isoembed.encoder.dense import projected, projection
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import pad
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.encoder.worker_pool import WorkerPool
from isoembed.estimates import recipe_memory
from isoembed.flops import projection_flop
from isoembed.methods import Full, Method
from isoembed.options import Options, Teacher
from isoembed.recipe import DataStats, EarlyStopping, Recipe, Setup, solve
from isoembed.records import RunRecord
from isoembed.training.checkpoint import trainable_of
from isoembed.training.distillation import projection_of
from isoembed.training.execution import Execution
from isoembed.training.gradients import Memory, accumulate_gradients
from isoembed.training.loop import run
from isoembed.training.loss import contrastive_loss
from isoembed.training.memory import plan_memory
from isoembed.training.setup import untrained
from isoembed.workflows.certify import certify
from isoembed.workflows.merge import merge
from tests.commands import ok
from tests.training.small import (
    METHODS,
    MODEL,
    StopAfter,
    assert_same_gradients,
    batch_ids,
    gradients,
    recipe,
    small_data,
    small_encoder,
)

WIDTH = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PairData:
    return small_data(tmp_path_factory.mktemp("pairs"))


def to(plain: Recipe, dimensions: int | None = WIDTH, **options: object) -> Recipe:
    return plain.model_copy(update={"options": Options(dimensions=dimensions, **options)})


@pytest.mark.parametrize("workers", [1, 2])
def test_cached_gradient_is_the_plain_one(workers: int) -> None:
    """A replica's gradient of the map must reach the model's."""
    encoder = projected(small_encoder(), WIDTH)
    query, positive = batch_ids(9)

    def loss_of(query_BD: torch.Tensor, positive_BD: torch.Tensor, *_: torch.Tensor | None) -> torch.Tensor:
        return contrastive_loss(query_BD, positive_BD, 0.1, torch.arange(9), torch.arange(9, 18))

    loss_of(encoder(*pad(query, 0)), encoder(*pad(positive, 0))).backward()
    expected = gradients(encoder)
    assert "dense.weight" in expected
    encoder.zero_grad()
    memory = Memory(mini_batch_tokens=32, kept_tokens=32, workers=workers)
    accumulate_gradients(WorkerPool(encoder, workers), query, positive, loss_of, memory)
    assert_same_gradients(expected, gradients(encoder))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_it_is_trained_beside_every_method(method: Method, data: PairData, tmp_path: Path) -> None:
    """C and the tokens are those of the method; what is counted exactly has six times the map for each text more."""
    plain = recipe(data, method)
    planned = to(plain)
    encoder, record = run(planned, data, tmp_path / "narrow")
    _, other = run(plain, data, tmp_path / "plain")
    assert encoder.dense is not None
    at_first = projection(MODEL.hidden, WIDTH).weight
    assert encoder.dense.weight.shape == (WIDTH, MODEL.hidden)
    assert not torch.equal(encoder.dense.weight, at_first)
    frozen = {name: value for name, value in encoder.named_parameters() if not value.requires_grad}
    before = dict(untrained(planned).named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in frozen.items())
    assert record.trainable_params == other.trainable_params + WIDTH * MODEL.hidden
    assert (record.model_flop, record.tokens) == (other.model_flop, other.tokens)
    assert record.all_in_flop - other.all_in_flop == pytest.approx(
        projection_flop(MODEL.hidden, WIDTH, 2 * record.pairs), rel=1e-6
    )
    assert record.final_loss is not None
    assert record.final_loss < record.loss_curve[0].loss


@pytest.mark.parametrize("early", [EarlyStopping(), EarlyStopping(keep="best", eval_steps=2)], ids=["last", "best"])
def test_resumed_is_bitwise_uninterrupted(data: PairData, tmp_path: Path, early: EarlyStopping) -> None:
    """The map, its moments and its average are in the checkpoint."""
    planned = to(recipe(data), ema_decay=0.5).model_copy(update={"early_stopping": early})
    whole_encoder, whole = run(planned, data, tmp_path / "whole")
    with pytest.raises(StoppedError):
        run(planned, data, tmp_path / "part", callbacks=[StopAfter(3)])
    encoder, part = run(planned, data, tmp_path / "part", execution=Execution(resume=True))
    assert [point.loss for point in part.loss_curve] == [point.loss for point in whole.loss_curve]
    expected = whole_encoder.state_dict()
    assert "dense.weight" in expected
    assert all(torch.equal(value, expected[name]) for name, value in encoder.state_dict().items())


def test_prefixes_and_a_teacher_act_on_what_is_projected(data: PairData, tmp_path: Path) -> None:
    """A teacher's map from the model's width in place of the embedding's would fail at the first step."""
    described = Teacher(source="./t", weights="w", params=10, width=12, context=64, weight=0.5)
    planned = to(recipe(data), teacher=described)
    maps = projection_of(planned, untrained(planned))
    assert maps is not None
    assert maps.in_features == WIDTH
    as_wide = to(recipe(data), teacher=described.model_copy(update={"width": WIDTH}))
    assert projection_of(as_wide, untrained(as_wide)) is None
    cut, record = run(to(recipe(data), matryoshka=(4,)), data, tmp_path / "cut")
    whole, _ = run(to(recipe(data)), data, tmp_path / "whole")
    assert record.heldout is not None
    assert not torch.equal(dict(cut.named_parameters())["dense.weight"], trainable_of(whole)["dense.weight"])


def test_it_is_part_of_the_key_where_it_is_used(data: PairData) -> None:
    plain = recipe(data)
    assert to(plain, None).key == plain.key
    assert len({plain.key, to(plain).key, to(plain, 7).key}) == 3
    assert "projected to 8 dimensions" in str(to(plain).options)
    assert "projected to 8 dimensions" in to(plain).pooling_in_words


def test_more_dimensions_than_the_model_has_are_refused(data: PairData) -> None:
    """A linear map makes no more of them; prefixes are of what is projected."""

    def solved(options: Options) -> Recipe:
        plain = recipe(data)
        setup = plain.setup.model_copy(update={"options": options})
        return solve(plain.flop, MODEL, Full(), 1e-3, setup, data.stats, family="nano")

    solved(Options(dimensions=MODEL.hidden))
    with pytest.raises(InputError, match=f"at most the model's {MODEL.hidden}.*got {MODEL.hidden + 1}"):
        solved(Options(dimensions=MODEL.hidden + 1))
    solved(Options(dimensions=WIDTH, matryoshka=(4,)))
    with pytest.raises(InputError, match=f"than the embedding's {WIDTH}"):
        solved(Options(dimensions=WIDTH, matryoshka=(WIDTH,)))
    for wrong in (0, -3):
        with pytest.raises(InputError, match="at least 1"):
            Options(dimensions=wrong)


def test_memory_knows_the_map_and_the_narrower_embeddings(data: PairData) -> None:
    """The weight, its gradient, two moments and the copy that a checkpoint makes; embeddings of fewer dimensions."""
    plain = recipe(data)
    narrow, wide = (recipe_memory(to(plain, dims)).least for dims in (1, MODEL.hidden))
    assert wide > narrow
    batch = plain.model_copy(update={"batch_pairs": 1 << 16})
    assert recipe_memory(to(batch)).least < recipe_memory(batch).least
    tight = recipe_memory(to(plain)).least - recipe_memory(to(plain, 4)).least
    per_dimension = 4.0 * (1 + 3) * MODEL.hidden  # without what a checkpoint holds, which the graph outweighs here
    embeddings = 4.0 * 7 * 2 * plain.batch_pairs
    assert tight >= 4 * (per_dimension + embeddings) * 0.99
    memories = [
        plan_memory(untrained(each), each, memory_bytes=None, mini_batch_tokens=512) for each in (plain, to(plain))
    ]
    assert all(found.kept_tokens > 0 for found in memories)


def test_trained_exported_and_certified_from_the_command_line(tmp_path: Path) -> None:
    """The width is in the record, on the card and in the certificate."""
    small_data(tmp_path)
    place = ["--data", str(tmp_path / "pairs.jsonl"), "--cache", str(tmp_path / "cache")]
    setup = ["--batch-pairs", "16", "--context-tokens", "32", "--dimensions", str(WIDTH), "--matryoshka", "4"]
    asked = ["--budget", "2e8", "--family", "nano", "--model", MODEL.name, "--method", "full", *setup, *place]
    out = tmp_path / "0"
    ok("train", *asked, "--out", str(out))
    record = RunRecord.load(out / "record.json")
    assert record.recipe.options == Options(dimensions=WIDTH, matryoshka=(4,))
    card = (out / "README.md").read_text()
    assert f"Embeddings have {WIDTH} dimensions" in card
    assert f"projected to {WIDTH} dimensions" in card
    found = certify(out)
    assert found.passed
    checks = {check.name: check.seen for check in found.checks}
    assert checks["projection"] == f"{MODEL.hidden} to {WIDTH} dimensions"

    # the average of two
    first = Embedder.load(out, device="cpu")
    assert first.encoder.dense is not None
    with torch.no_grad():
        first.encoder.dense.weight.mul_(1.5)
    first.save(tmp_path / "1")
    merge([out, tmp_path / "1"], tmp_path / "mean", shares=[3, 1])
    one, mean = (
        load_file(folder / "2_Dense" / "model.safetensors")["linear.weight"] for folder in (out, tmp_path / "mean")
    )
    torch.testing.assert_close(mean, 1.125 * one, rtol=1e-6, atol=1e-7)
    merge([out], tmp_path / "half", base=0.5)
    half = load_file(tmp_path / "half" / "2_Dense" / "model.safetensors")["linear.weight"]
    torch.testing.assert_close(half, 0.5 * one + 0.5 * projection(MODEL.hidden, WIDTH).weight, rtol=1e-6, atol=1e-7)
    first.encoder.dense = None
    first.save(tmp_path / "wide")
    with pytest.raises(InputError, match=r"one projection.*to 8 and none"):
        merge([out, tmp_path / "wide"], tmp_path / "no")


def test_an_untrained_map_is_no_export(tmp_path: Path) -> None:
    """A trainer that forgets it in the optimiser gives a random cut of the model, which looks like a model."""
    wanted = Setup(batch_pairs=8, context_tokens=32, options=Options(dimensions=WIDTH))
    planned = solve(2e8, MODEL, Full(), 5e-3, wanted, DataStats.assumed(32), family="nano")
    embedder = Embedder(untrained(planned), load_tokenizer(MODEL.source), 32)
    with torch.no_grad():
        for value in embedder.encoder.model.parameters():
            value.add_(0.01)
    with pytest.raises(ExportError, match="projection that is untrained"):
        embedder.save(tmp_path / "out", recipe=planned)
    assert embedder.encoder.dense is not None
    with torch.no_grad():
        embedder.encoder.dense.weight.add_(0.01)
    embedder.save(tmp_path / "out", recipe=planned)
