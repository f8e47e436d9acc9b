"""Model folders that ask for code, kernels or files of somebody's, and configurations of sizes that no model has."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isoembed.core import InputError
from isoembed.encoder.config import load_config, read_config
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.exported import KNOWN_MODULES, load_exported
from isoembed.encoder.load import load_model
from isoembed.encoder.shapes import spec_from_config
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.evaluation.mteb.model import open_model
from tests.commands import command
from tests.evaluation.tiny import write_model

AUTO_MAP = {name: f"evil.{name}" for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def exported(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    Embedder(Encoder(load_model(str(base)), "mean"), load_tokenizer(str(base)), 16).save(folder, card="")
    return folder


@pytest.fixture
def evil(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The exported model with code in it that leaves a mark; who is asked whether to run it, says yes."""
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w')\nclass Transformer: pass\nclass Pooling: pass\n"
    for name in ("evil", "modeling_evil", "tokenization_evil"):
        (folder / f"{name}.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    yield folder
    assert not mark.exists()


def _change(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def _refused(folder: Path) -> str:
    """What all that opens a model folder says of it."""
    said = set()
    for opens in (load_exported, open_model):
        with pytest.raises(InputError) as error:
            opens(folder)
        said.add(str(error.value))
    (words,) = said
    return words


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize(
    "kind",
    ["evil.Transformer", "modeling_evil.Pooling", "Transformer", "sentence_transformers.evil.Transformer",
     "sentence_transformers.models.CNN", "sentence_transformers.models.Transformer.evil", "os.path.Normalize",
     "evil.sentence_transformers.models.Transformer", "elsewhere/repo--evil.Transformer"],
)  # fmt: skip
def test_only_known_modules_are_imported(kind: str, number: int, evil: Path) -> None:
    modules = json.loads((evil / "modules.json").read_text())
    modules[number]["type"] = kind
    (evil / "modules.json").write_text(json.dumps(modules))
    assert "no other code is run" in _refused(evil)


def test_old_and_new_paths_of_the_same_modules_are_known(evil: Path) -> None:
    """As sentence-transformers before 5.4, 5.4 to 5.7 and since 6 write them; what this version has no path for is one
    line too."""
    modules = json.loads((evil / "modules.json").read_text())
    opened = 0
    for number in range(4):
        named = [{**each, "type": KNOWN_MODULES[each["type"].rpartition(".")[2]][number]} for each in modules]
        (evil / "modules.json").write_text(json.dumps(named))
        try:
            load_exported(evil)
            opened += 1
        except InputError:
            continue
    assert opened >= 2


@pytest.mark.parametrize("kind", ["evilmodel", "gpt_neox"])
def test_an_auto_map_asks_nobody(kind: str, evil: Path) -> None:
    """An architecture that transformers does not know, and one that it does and has no need of the folder's code
    for."""
    _change(evil / "config.json", model_type=kind, auto_map=AUTO_MAP)
    _change(evil / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Slow", "evil.Fast"]})
    if kind == "evilmodel":
        assert "asks for code of its own" in _refused(evil)
        for opens in (load_config, load_model, spec_from_config):
            with pytest.raises(InputError, match="code of its own"):
                opens(str(evil))
    else:
        load_exported(evil)
        load_tokenizer(str(evil))


def test_an_unknown_tokenizer_class_of_the_folder_asks_nobody(evil: Path) -> None:
    entries = {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["evil.Slow", "evil.Fast"]}}
    _change(evil / "tokenizer_config.json", **entries)
    for opens in (load_exported, lambda folder: load_tokenizer(str(folder))):
        try:
            opens(evil)
        except InputError:
            continue


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("name", ["kernels-community/evil", "evil/kernel@main:fn", "flash_attention_2"])
def test_a_kernel_named_in_the_configuration_is_not_followed(
    key: str, name: str, evil: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(*_: Any, **__: Any) -> None:
        raise AssertionError("asked the hub for a kernel")

    monkeypatch.setattr("transformers.integrations.hub_kernels.get_kernel", fetched)
    _change(evil / "config.json", **{key: name})
    models: list[Any] = [load_exported(evil)[0].model, load_model(str(evil), random_init=True), load_model(str(evil))]
    for model in models:
        assert model.config._attn_implementation in ("sdpa", "eager")
    spec_from_config(str(evil))


@pytest.mark.parametrize(
    "asked",
    [{"model_kwargs": {"use_kernels": True}}, {"model_args": {"quantization_config": {"quant_method": "evil"}}},
     {"config_kwargs": {"name_or_path": "/elsewhere"}}, {"config_args": {"auto_map": AUTO_MAP}}],
)  # fmt: skip
def test_a_folder_opens_without_arguments_of_its_own(asked: dict[str, Any], evil: Path) -> None:
    _change(evil / "sentence_bert_config.json", **asked)
    assert "arguments of its own" in _refused(evil)


def test_what_a_folder_may_ask_for_is_overruled(evil: Path) -> None:
    asked = {"torch_dtype": "float16", "trust_remote_code": True, "attn_implementation": "kernels-community/evil"}
    _change(evil / "sentence_bert_config.json", model_args=asked)
    encoder, _, _ = load_exported(evil)
    assert {str(value.dtype) for value in encoder.parameters()} == {"torch.float32"}


def test_a_folder_of_another_class_is_refused(evil: Path) -> None:
    _change(evil / "config_sentence_transformers.json", model_type="CrossEncoder")
    assert "model_type" in _refused(evil)


def test_an_adapter_does_not_lead_to_another_folder(evil: Path, base: Path) -> None:
    (evil / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base)}))
    assert "adapter" in _refused(evil)
    for opens in (load_config, load_model):
        with pytest.raises(InputError, match="adapter"):
            opens(str(evil))


# ---- sizes ------------------------------------------------------------------------------------------------------

DEEP = '{"model_type": "gpt_neox", "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
WRONG: dict[str, Any] = {
    "layers1e7": {"num_hidden_layers": 10**7},
    "layers1e12": {"num_hidden_layers": 10**12},
    "layers0": {"num_hidden_layers": 0},
    "layers-1": {"num_hidden_layers": -1},
    "layers1.5": {"num_hidden_layers": 1.5},
    "layerstext": {"num_hidden_layers": "4"},
    "hidden1e9": {"hidden_size": 10**9, "intermediate_size": 4 * 10**9},
    "hidden1e30": {"hidden_size": 10**30},
    "hidden0": {"hidden_size": 0},
    "hiddenodd": {"hidden_size": 25},
    "heads0": {"num_attention_heads": 0},
    "heads-2": {"num_attention_heads": -2},
    "heads7": {"num_attention_heads": 7},
    "vocab0": {"vocab_size": 0},
    "vocab1e15": {"vocab_size": 10**15},
    "ctx1e18": {"max_position_embeddings": 10**18},
    "ctx-5": {"max_position_embeddings": -5},
    "ctxnull": {"max_position_embeddings": None},
    "inner1e12": {"intermediate_size": 10**12},
    "act": {"hidden_act": "evil"},
    "actlist": {"hidden_act": ["gelu"]},
    "rope": {"rope_parameters": {"rope_type": "evil"}},
    "rope list": {"rope_parameters": [1]},
    "dropout5": {"attention_dropout": 5},
    "dropoutnan": {"hidden_dropout": float("nan")},
    "dtype": {"dtype": "float99"},
    "type": {"model_type": "evil"},
    "typelist": {"model_type": ["gpt_neox"]},
    "typenull": {"model_type": None},
    "null": "null",
    "list": "[]",
    "text": '"gpt_neox"',
    "number": "1" * 5000,
    "empty": "",
    "noise": "\x00\x01\x02",
    "deep": DEEP,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_configuration_out_of_range_is_one_line(
    name: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted by `models`, and opened with weights, for what only a forward pass would meet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    wrong = WRONG[name]
    written = {**json.loads((base / "config.json").read_text()), **wrong} if isinstance(wrong, dict) else wrong
    (folder / "config.json").write_text(written if isinstance(written, str) else json.dumps(written))
    done = command("models", f"--model={folder}", inside=tmp_path)
    assert done.status in (0, 2)
    if done.status:
        assert done.err.startswith("isoembed: ")
        assert done.err.count("\n") == 1
    with pytest.raises(InputError):
        load_model(str(folder))


def test_sizes_of_real_models_pass(base: Path, tmp_path: Path) -> None:
    """Llama 3.1 405B's."""
    large = {"hidden_size": 16384, "num_hidden_layers": 126, "num_attention_heads": 128, "vocab_size": 128256}
    config = json.loads((base / "config.json").read_text()) | large | {"max_position_embeddings": 131072}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config(str(tmp_path)).num_hidden_layers == 126
