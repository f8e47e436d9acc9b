"""The FLOP formulas against what torch counts while tiny models run.

torch's counter sees matrix products only: 2 FLOP a weight and token forward, for the gradient of the layer's input, and
for the gradient of its weight.  It also sees attention, which C leaves out and `attention_flop` counts.  What C has and
the counter has not is subtracted here, so that the two must agree (but for the rotary angles, under one part in 1,000):

- vectors (norms, biases) are parameters that run no matrix product;
- where nothing in front of the first trained layer trains, that layer's input needs no gradient, so the dense layers
  that read it are spared that product, LoRA's A side among them; so is OPT's projection in front of the blocks.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from isoembed.encoder.encoder import Encoder
from isoembed.encoder.shapes import spec_of
from isoembed.families import PYTHIA, ModelSpec
from isoembed.flops import Cost, Price, TeacherReading, all_in_flop, attention_flop, executed_flop
from isoembed.methods import Bias, Freeze, Full, LoRA, Method
from isoembed.methods.parts import blocks_of, dense_layers, entry_modules, is_embedding
from tests.models import VOCAB, configs

TEXTS, LENGTH = 3, 16
TOKENS = TEXTS * LENGTH

#: architecture -> the dense layers that read a block's input, directly or through its first norm
READERS = {
    "gpt_neox": "query_key_value dense_h_to_4h",  # the parallel residual
    "llama": "q_proj k_proj v_proj",
    "qwen2": "q_proj k_proj v_proj",
    "qwen3": "q_proj k_proj v_proj",
    "gpt2": "c_attn",
    "opt": "q_proj k_proj v_proj",
    "olmo2": "q_proj k_proj v_proj",
}


def cases() -> list[object]:
    methods: tuple[Method, ...] = (Full(), Freeze(fraction=0.34), Freeze(fraction=1.0), Bias(), LoRA(rank=4))
    return [
        pytest.param(architecture, method, id=f"{architecture}-{method.label.replace(' ', '-')}")
        for architecture in READERS
        for method in methods
        if not isinstance(method, Bias) or architecture in ("gpt_neox", "qwen2", "gpt2", "opt")
    ]


def matrices_only(model: nn.Module, spec: ModelSpec) -> ModelSpec:
    """`spec` as if there were no norms and biases."""

    def count(module: nn.Module) -> int:
        return sum(value.numel() for value in module.parameters() if value.ndim >= 2)

    blocks = tuple(count(block) for block in blocks_of(model))
    embeddings = sum(count(module) for module in model.modules() if is_embedding(module))
    entry = sum(count(module) for module in entry_modules(model) if isinstance(module, nn.Linear))
    return spec.model_copy(
        update={
            "block_params": blocks,
            "other_params": count(model) - sum(blocks) - embeddings,
            "entry_params": entry,
        }
    )


def spared(architecture: str, method: Method, spec: ModelSpec, layers: dict[str, tuple[int, int]]) -> int:
    """Weights whose layer needs no gradient of its input although the formula charges one."""
    match method:
        case Full():
            return 0
        case Freeze():  # trains the norm in front of the readers; OLMo 2 has none there
            entry, first, readers = 0, spec.blocks - method.active_blocks(spec.blocks), architecture == "olmo2"
        case Bias():  # trains the bias of the norm in front of the readers; Qwen 2's norm has none
            entry, first, readers = spec.entry_params, 0, architecture == "qwen2"
        case LoRA():
            entry, first, readers = spec.entry_params, 0, True
    rank = method.rank if isinstance(method, LoRA) else 0
    reading = [
        inputs * (outputs + rank)
        for name, (inputs, outputs) in layers.items()
        if f".{first}." in name and name.rsplit(".", 1)[-1] in READERS[architecture].split()
    ]
    return entry + readers * sum(reading)


@pytest.mark.parametrize(("architecture", "method"), cases())
def test_torch_counts_what_the_formula_says(architecture: str, method: Method) -> None:
    torch.manual_seed(0)
    model = AutoModel.from_config(configs()[architecture], attn_implementation="eager")
    spec, layers = spec_of(model, architecture, architecture), dense_layers(model)
    matrices = matrices_only(model, spec)
    encoder = Encoder(method.apply(model), "mean")
    ids_BT = torch.randint(4, VOCAB, (TEXTS, LENGTH))
    with FlopCounterMode(display=False) as counter:
        encoder(ids_BT, torch.ones_like(ids_BT)).sum().backward()

    cost = method.cost(spec)
    squares, width = TEXTS * LENGTH**2, spec.attention_width
    attention = attention_flop(width, spec.blocks, squares) + 2 * attention_flop(width, cost.blocks_backward, squares)
    products = method.cost(matrices)
    if isinstance(method, Bias):
        products = products.model_copy(update={"updated": 0})
    expected = (products.flop_per_token - 2 * spared(architecture, method, spec, layers)) * TOKENS + attention
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-3)
    assert counter.get_total_flops() <= cost.flop_per_token * TOKENS + attention + 1e-3 * expected


def test_cost_of_each_method_on_pythia_70m() -> None:
    model = PYTHIA.model("pythia-70m")
    n, block = 18_915_328, 12 * 512**2 + 13 * 512
    assert Full().cost(model).flop_per_token == 6 * n
    assert Full().cost(model).table == 50304 * 512
    assert Freeze(fraction=0.5).cost(model).flop_per_token == 2 * n + 4 * (3 * block + 2 * 512)
    assert Freeze(fraction=1.0).cost(model).flop_per_token == 6 * n
    assert Bias().cost(model).flop_per_token == 4 * n + 2 * (6 * 11 * 512 + 512)
    adapters = 6 * 8 * (512 + 1536 + 512 + 512 + 512 + 2048 + 2048 + 512)
    assert LoRA(rank=8).cost(model).flop_per_token == 4 * (n + adapters) + 2 * adapters
    assert {method.cost(model).table for method in (Freeze(), Bias(), LoRA())} == {0}


def test_tokens_are_the_inverse_of_the_price() -> None:
    cost = Full().cost(PYTHIA.model("pythia-14m"))
    assert Price(train=cost.flop_per_token).tokens(1e15) == pytest.approx(1e15 / (6 * 1_189_888))


@pytest.mark.parametrize(("tokens", "flop"), [(50, 50 * 8), (100, 800), (300, 100 * 2 + 300 * 6)])
def test_a_teacher_is_paid_once_for_a_text(tokens: float, flop: float) -> None:
    """Before the unique tokens end, where they end, and in the third epoch."""
    price = Price(train=6, readings=(TeacherReading(flop=2, until=100),))
    assert price.flop(tokens) == flop
    assert price.tokens(flop) == tokens
    assert price.teacher_flop(tokens) == 2 * min(tokens, 100)


@pytest.mark.parametrize(
    ("tokens", "flop"), [(10, 10 * 12), (20, 20 * 12), (50, 50 * 10 + 20 * 2), (500, 500 * 6 + 20 * 2 + 100 * 4)]
)
def test_a_source_that_repeats_is_paid_no_more(tokens: float, flop: float) -> None:
    """While both sources are new, where one ends, while the other is new, and when neither is."""
    price = Price(train=6, readings=(TeacherReading(flop=4, until=100), TeacherReading(flop=2, until=20)))
    assert price.flop(tokens) == flop
    assert price.tokens(flop) == tokens
    assert Price(train=6, readings=(TeacherReading(flop=4),)).tokens(1000) == 100


def test_what_c_leaves_out_by_hand() -> None:
    cost = Cost(forward=100, backward=50, updated=20, table=7, blocks_backward=1)
    # two texts of 3 and 4 tokens: 25 squared; 3 blocks forward, 1 backward, width 10
    assert attention_flop(10, 3, 25) == 4 * 25 * 10 * 3
    assert all_in_flop(cost, tokens=7, squared_lengths=25, hidden=10, blocks=3) == (340 + 14) * 7 + 1000 * (3 + 2)
    # 9 padded tokens, 4 of them run forward twice
    assert executed_flop(cost, processed_tokens=9, recomputed_tokens=4) == 340 * 9 + 200 * 4
    # 3 of the others run forward a second time through the 50 parameters behind a frozen prefix
    assert executed_flop(cost, processed_tokens=9, recomputed_tokens=4, resumed_tokens=3) == 340 * 9 + 200 * 4 + 100 * 3
