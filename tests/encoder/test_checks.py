import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    MptConfig,
    PreTrainedConfig,
)

from isoembed.core import InputError
from isoembed.encoder.config import load_config
from isoembed.encoder.load import attend_both_ways, check_weights, load_model, weights_hash
from tests.models import VOCAB, configs

Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def checkpoint(folder: Path, config: PreTrainedConfig | None = None, change: Change | None = None) -> str:
    """A tiny Llama as one finds it on a hub, with a head, its tensors changed."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config or configs()["llama"]).save_pretrained(folder)
    if change is not None:
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, {"format": "pt"})
    return str(folder)


def written(folder: Path, **entries: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.mark.parametrize("read", [load_model, check_weights])
def test_tensors_that_the_architecture_has_no_place_for_are_refused(
    tmp_path: Path, read: Callable[[str], object]
) -> None:
    """Dropped in silence they make another model: its loss was .94 where 3.69 was right."""
    biased = configs()["llama"]
    biased.attention_bias = True
    source = checkpoint(tmp_path / "biases", biased)
    load_model(source)
    written(tmp_path / "biases", attention_bias=False)
    with pytest.raises(InputError, match=r"12 have none \(model\.layers\.0\.self_attn\.k_proj\.bias, .*, \.\.\.\)"):
        read(source)
    source = checkpoint(tmp_path / "blocks")
    written(tmp_path / "blocks", num_hidden_layers=2)
    with pytest.raises(InputError, match=r"9 have none \(model\.layers\.2\."):
        read(source)
    extra = checkpoint(tmp_path / "extra", change=lambda all_: {**all_, "projector.weight": torch.ones(4, 4)})
    with pytest.raises(InputError, match=r"1 have none \(projector\.weight\)"):
        read(extra)


@pytest.mark.parametrize("architecture", ["llama", "opt", "gpt2", "gpt_neox"])
def test_a_cut_has_no_place_for_the_blocks_beyond_it_and_needs_one_for_the_rest(
    tmp_path: Path, architecture: str
) -> None:
    """Fails where a cut is refused for the blocks that it lacks, or lets pass what the whole would not."""

    def beside(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        last = next(name for name in tensors if ".2." in name and name.endswith("weight"))
        return {**tensors, last.replace(".2.", ".3."): tensors[last].clone()}

    config = configs()[architecture]
    load_model(checkpoint(tmp_path / "whole", config), depth=2)
    for name, change in {"beyond": beside, "block": lambda all_: {**all_, "projector.2.weight": torch.ones(4)}}.items():
        source = checkpoint(tmp_path / name, config, change)
        for depth in (None, 2):
            with pytest.raises(InputError, match="1 have none"):
                load_model(source, depth=depth)


@pytest.mark.parametrize("read", [load_model, check_weights])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
def test_a_wrappers_prefix_is_named(tmp_path: Path, prefix: str, read: Callable[[str], object]) -> None:
    source = checkpoint(tmp_path, change=lambda all_: {prefix + name: value for name, value in all_.items()})
    with pytest.raises(InputError, match=f"begin with '{prefix}model.'"):
        read(source)


def test_heads_and_tables_that_are_computed_may_be_left_out(tmp_path: Path) -> None:
    plain = weights_hash(load_model(checkpoint(tmp_path / "plain")))
    extra = {
        "v_head.summary.weight": torch.ones(1, 32),
        "score.weight": torch.ones(2, 32),
        "mtp.layers.0.weight": torch.ones(4),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    }
    source = checkpoint(tmp_path / "more", change=lambda all_: {**all_, **extra})
    assert weights_hash(load_model(source)) == plain
    check_weights(source)
    for name, masks in {
        "gpt2": ("transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"),
        "gpt_neox": ("gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"),
    }.items():
        old = checkpoint(
            tmp_path / name,
            configs()[name],
            lambda all_, masks=masks: {**all_, **{m: torch.ones(1) for m in masks}},  # type: ignore[misc]
        )
        load_model(old)


def test_a_classifier_is_read_without_its_head(tmp_path: Path) -> None:
    AutoModelForSequenceClassification.from_config(configs()["qwen3"]).save_pretrained(tmp_path)
    check_weights(str(tmp_path))
    load_model(str(tmp_path))


def test_blocks_that_draft_tokens_ahead_are_left_out_where_the_configuration_says_so(tmp_path: Path) -> None:
    source = checkpoint(tmp_path)
    written(tmp_path, num_hidden_layers=2, num_nextn_predict_layers=1)
    load_model(source)
    written(tmp_path, num_hidden_layers=1)
    with pytest.raises(InputError, match=r"9 have none \(model\.layers\.2\."):
        load_model(source)


@pytest.mark.parametrize("entry", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8", "mxfp4", "new", None])
def test_quantised_weights_are_refused(tmp_path: Path, method: str | None, entry: str) -> None:
    configs()["llama"].save_pretrained(tmp_path)
    written(tmp_path, **{entry: {"quant_method": method, "bits": 4}})
    for read in (load_config, check_weights, load_model):
        with pytest.raises(InputError, match=r"^`model` must have unquantised weights; [^\n]* 16 or 32 bits[^\n]*$"):
            read(str(tmp_path))


@pytest.mark.parametrize("tensor", ["qweight", "weight_scale_inv", "weight.absmax", "SCB", "weight_packed"])
def test_quantised_weights_without_a_word_in_the_configuration_are_refused(tmp_path: Path, tensor: str) -> None:
    name = f"model.layers.0.self_attn.q_proj.{tensor}"
    source = checkpoint(tmp_path, change=lambda all_: {**all_, name: torch.ones(1)})
    with pytest.raises(InputError, match="must have unquantised weights"):
        check_weights(source)


@pytest.mark.parametrize("whole", [True, False], ids=["beside weights", "alone"])
def test_an_adapter_is_neither_merged_nor_left_out_nor_followed(tmp_path: Path, whole: bool) -> None:
    """With one beside the weights, the export held an untrained adapter and a pointer to another folder."""
    elsewhere = checkpoint(tmp_path / "elsewhere")
    folder = tmp_path / "model"
    if whole:
        checkpoint(folder)
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": elsewhere, "peft_type": "LORA"}))
    for read in (load_config, check_weights, load_model):
        with pytest.raises(InputError, match=r"holds an adapter \(adapter_config.json\).*merge_and_unload"):
            read(str(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = value
        return tensors

    with pytest.raises(InputError, match=r"'layers.1.mlp.up_proj.weight' of .* holds NaN or infinity"):
        load_model(checkpoint(tmp_path, change=spoil))


def test_an_architecture_that_fails_without_its_mask_cannot_attend_both_ways() -> None:
    """MPT's own AttributeError reached the user."""
    mpt = MptConfig(vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, max_seq_len=32)
    with pytest.raises(InputError, match="mpt's does not"):
        attend_both_ways(AutoModel.from_config(mpt).eval())
