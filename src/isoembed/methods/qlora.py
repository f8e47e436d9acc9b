"""QLoRA (Dettmers et al. 2023, arXiv 2305.14314): LoRA over dense layers whose weights are kept in 4 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from isoembed.core import InputError
from isoembed.families.base import ModelSpec
from isoembed.flops import Cost
from isoembed.methods.adapters import Adapters

if TYPE_CHECKING:
    from torch import nn


class QLoRA(Adapters):
    """Scale alpha / rank, and cost as LoRA's: weights are unpacked to full precision before every product, so that a
    token costs the same products.

    The dense layers of the blocks are kept as NF4, 64 weights a scale, the scales themselves as 8-bit numbers (double
    quantisation: 4.127 bits a weight); biases, norms and the token table stay as they are.  Leaves out the unpacking,
    which goes by step, not by token: a look-up and a product a weight and pass.
    """

    about: ClassVar[str] = "LoRA over dense layers kept in 4 bits (needs bitsandbytes)"
    like: ClassVar[str | None] = "lora"
    name: Literal["qlora"] = "qlora"

    def cost(self, model: ModelSpec) -> Cost:
        quantised = sum(layer.inputs * layer.outputs * layer.count for layer in model.dense)
        return super().cost(model).model_copy(update={"quantised": quantised})

    def apply(self, model: nn.Module) -> nn.Module:
        """As `Adapters`, after the dense layers' weights were rounded in place; raises InputError without bitsandbytes.

        At step 0 the model is therefore the rounded base, not the base.
        """
        self.refuse_experts(model)
        bnb = _bitsandbytes()
        for name in self.layers(model):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, _rounded(bnb, model.get_submodule(name)))
        return super().apply(model)


def unpacked(model: nn.Module) -> nn.Module:
    """A copy of an adapted `model` in which the layers that `QLoRA` rounded are plain ones again, of the values that
    they stand for."""
    import copy

    from torch import nn
    from transformers.pytorch_utils import Conv1D

    model = copy.deepcopy(model)
    adapters: list[Any] = [part for part in model.modules() if is_rounded(getattr(part, "base_layer", None))]
    for adapter in adapters:
        rounded = adapter.base_layer
        weight = _bitsandbytes().functional.dequantize_4bit(rounded.weight.data, rounded.weight.quant_state)
        outputs, inputs = weight.shape
        if rounded.was_transposed:
            plain: Any = Conv1D(outputs, inputs)
            plain.weight, plain.bias = nn.Parameter(weight.T.contiguous()), rounded.bias
            adapter.fan_in_fan_out = True
        else:
            plain = nn.Linear(inputs, outputs, bias=False)
            plain.weight, plain.bias = nn.Parameter(weight), rounded.bias
        adapter.base_layer = plain
    return model


def is_rounded(module: object) -> bool:
    """Whether `module` is a dense layer that `QLoRA` made."""
    return hasattr(module, "was_transposed")


def _rounded(bnb: Any, layer: Any) -> nn.Module:
    """A dense layer's weight as NF4, computing in fp32 (or what autocast says); Conv1D, as in GPT-2, is transposed."""
    from torch import float32, nn

    transposed = not isinstance(layer, nn.Linear)
    weight = layer.weight.data.T.contiguous() if transposed else layer.weight.data
    outputs, inputs = weight.shape
    rounded = bnb.nn.Linear4bit(
        inputs, outputs, bias=False, compute_dtype=float32, compress_statistics=True, quant_type="nf4", device="meta"
    )
    rounded.weight = bnb.nn.Params4bit(
        weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=rounded
    ).to(weight.device)
    rounded.bias = None if layer.bias is None else nn.Parameter(layer.bias.data, requires_grad=False)
    # else its first pass without gradients on some CPUs packs the weight anew, with scales in 16 bits
    rounded.support_avx512bf16_for_cpu = False
    rounded.was_transposed = transposed
    return rounded  # type: ignore[no-any-return]


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError:
        raise InputError(
            "`qlora` needs the library bitsandbytes, which is not installed; `pip install 'isoembed[qlora]'`, or use "
            "lora."
        ) from None
    return bitsandbytes
