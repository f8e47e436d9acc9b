import json
import pickle
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, BertConfig, Gemma3Config, T5Config

from isoembed.core import InputError
from isoembed.encoder.config import load_config, resolve
from isoembed.encoder.load import load_model, weights_hash
from isoembed.encoder.tokenizer import load_tokenizer
from tests.models import configs, tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny GPT-NeoX as one finds it on a hub: half precision, with a language-modelling head."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(configs()["gpt_neox"], dtype=torch.float16).save_pretrained(tmp_path)
    return tmp_path


# ---- where a model is -------------------------------------------------------------------------------------------


def test_a_nano_model_is_a_folder_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "assets" / "nano" / "nano-28k"
    shipped.mkdir(parents=True)
    (shipped / "config.json").write_text("{}")
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    assert resolve("nano/nano-28k") == str(shipped)
    with pytest.raises(InputError, match=r"\(nano/nano-28k\); got 'nano/nano-9b'"):
        resolve("nano/nano-9b")
    with pytest.raises(InputError, match=rf"nano/nano-3.1m are not installed.* Copy .* to {tmp_path}/assets/nano"):
        resolve("nano/nano-3.1m")  # a wheel leaves it out


def test_one_tokenizer_serves_the_nano_models() -> None:
    """A wheel holds the first one's alone."""
    suite = Path(str(files("isoembed"))) / "assets" / "nano"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert len({file.read_bytes() for file in suite.glob(f"*/{name}")}) == 1


def test_folders_and_hub_ids_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(str(tmp_path / "model")) == str(tmp_path / "model")
    assert resolve("~/model") == str(tmp_path / "model")
    assert resolve("EleutherAI/pythia-70m") == "EleutherAI/pythia-70m"
    assert resolve("gpt2") == "gpt2"


@pytest.mark.parametrize("source", ["/no/such/folder", "./none", "~/none", "a/b/c"])
def test_a_folder_that_is_not_there_is_refused(source: str) -> None:
    with pytest.raises(InputError, match=f"there is no folder '{source}'"):
        resolve(source)


def test_an_unreachable_hub_id_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for read in (load_config, load_model, load_tokenizer):
        with pytest.raises(InputError, match=r"'nobody/no-such-model' cannot be read .* give the path of a downloaded"):
            read("nobody/no-such-model")


# ---- what a model is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BertConfig(), r"decoder-only .* \(bert\) is an encoder"),
        (T5Config(), r"decoder-only .* \(t5\) is an encoder-decoder"),
        (Gemma3Config(), r"text-only.* \(gemma3\) also reads images"),
    ],
    ids=["encoder", "encoder-decoder", "images"],
)
def test_other_kinds_of_model_are_refused(config: Any, message: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=message):
        load_model(str(tmp_path), random_init=True)


def test_code_from_the_hub_does_not_run_unasked(tmp_path: Path) -> None:
    auto_map = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": auto_map}))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="asks for code of its own"):
        load_model(str(tmp_path))
    assert not (tmp_path / "ran").exists()


# ---- weights ----------------------------------------------------------------------------------------------------


def test_weights_arrive_without_head_in_single_precision(folder: Path) -> None:
    model = load_model(str(folder))
    stored = load_file(folder / "model.safetensors")
    loaded = dict(model.named_parameters())
    assert {f"gpt_neox.{name}" for name in loaded} == set(stored) - {"embed_out.weight"}
    for name, value in loaded.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, stored[f"gpt_neox.{name}"].float())
    assert not model.training
    assert not model.config.use_cache  # type: ignore[union-attr]


def test_loading_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(str(folder))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


class _Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.target), "w")


def test_pickled_weights_are_refused_unopened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Evil(folder / "ran")))
    with pytest.raises(InputError, match=r"pickled ones are not opened.*save_pretrained"):
        load_model(str(folder))
    assert not (folder / "ran").exists()


def test_missing_weights_are_not_drawn_at_random(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["gpt_neox.final_layer_norm.bias"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"1 are missing \(final_layer_norm.bias\)"):
        load_model(str(folder))


def test_torn_weights_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"The weights of .* cannot be read"):
        load_model(str(folder))


def test_random_weights_are_a_function_of_the_seed(folder: Path) -> None:
    state = torch.get_rng_state()
    hashes = [weights_hash(load_model(str(folder), random_init=True, seed=seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0] != weights_hash(load_model(str(folder)))


def test_the_hash_sees_every_weight_and_its_place(folder: Path) -> None:
    model = load_model(str(folder))
    assert weights_hash(model) == weights_hash(load_model(str(folder)))
    seen = {weights_hash(model)}
    with torch.no_grad():
        weight = model.get_parameter("layers.2.mlp.dense_4h_to_h.weight")
        weight[-1, -1] += 1e-6
        seen.add(weights_hash(model))
        first, second = (model.get_parameter(f"layers.{index}.attention.dense.weight") for index in (0, 1))
        first.data, second.data = second.data, first.data
        seen.add(weights_hash(model))
    seen.add(weights_hash(model.bfloat16()))
    assert len(seen) == 4


def test_the_hash_sees_what_is_stored_beside_the_weights() -> None:
    """Which expert a token is sent to hangs on a correction bias that is no parameter; it was not seen."""
    model = nn.Linear(2, 2)
    plain = weights_hash(model)
    model.register_buffer("computed", torch.ones(2), persistent=False)
    assert weights_hash(model) == plain
    bias = torch.zeros(2)
    model.register_buffer("e_score_correction_bias", bias)
    before = weights_hash(model)
    bias += 1
    assert len({plain, before, weights_hash(model)}) == 3


def test_an_attention_implementation_may_be_chosen(folder: Path) -> None:
    tiny("gpt_neox").save_pretrained(folder)  # type: ignore[operator]
    model = load_model(str(folder), attn_implementation="eager")
    assert model.config._attn_implementation == "eager"  # type: ignore[union-attr]
