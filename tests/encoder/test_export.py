import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from torch import nn
from transformers import MambaConfig, MambaModel

from isoembed.core import InputError
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.exported import POOLING_MODES, load_exported
from isoembed.encoder.load import attend_both_ways, load_model
from isoembed.encoder.pooling import POOLINGS
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.methods import Bias, Freeze, Full, LoRA, QLoRA
from isoembed.methods.base import BaseMethod
from isoembed.options import Prompts, SourcePrompts
from isoembed.recipe import PoolingName
from tests.evaluation.tiny import TEXTS, load, write_model
from tests.models import configs, tiny, tiny_tokenizer

CONTEXT = 24
METHODS = [Full(), Freeze(fraction=0.5), Bias(), LoRA(rank=4, alpha=8)]
CHAT = "{% for message in messages %}<end>{{ message['role'] }}: {{ message['content'] }}<end>{% endfor %}"


def fine_tuned(folder: Path, method: BaseMethod, pooling: PoolingName) -> Encoder:
    """As after training: everything that may train has moved."""
    model = method.apply(load_model(str(folder)))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return Encoder(model, pooling).eval()


def bits(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_sentence_transformers_gives_our_vectors(tmp_path: Path, method: BaseMethod, pooling: PoolingName) -> None:
    source = write_model(tmp_path / "base")
    encoder, tokenizer = fine_tuned(source, method, pooling), load_tokenizer(str(source), pooling=pooling)
    before = bits(encoder)
    Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="# card\n")

    ours = Embedder(encoder, tokenizer, CONTEXT).embed(TEXTS)
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(model.encode(list(TEXTS)), ours, atol=1e-5)
    assert model.max_seq_length == CONTEXT
    assert model.similarity_fn_name == "cosine"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}

    untrained, _ = load(source, pooling)
    assert np.abs(Embedder(untrained, tokenizer, CONTEXT).embed(TEXTS) - ours).max() > 1e-2
    after = encoder.state_dict()  # the caller's model, adapters included, is bit for bit what it was
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())

    again, again_tokenizer, context = load_exported(tmp_path / "out")
    assert context == CONTEXT
    assert again.pooling == pooling
    np.testing.assert_allclose(Embedder(again, again_tokenizer, context).embed(TEXTS), ours, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_servers_find_pooling_and_context_where_they_look(tmp_path: Path, pooling: PoolingName) -> None:
    """Module types as they were named before, one true key for the pooling, the context: else vLLM took a decoder's
    last token (its issue 45995), without a word."""
    source = write_model(tmp_path / "base")
    Embedder(*load(source, pooling), CONTEXT).save(tmp_path / "out", card="")
    modules = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert [module["type"] for module in modules] == [
        f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")
    ]
    found = json.loads((tmp_path / "out" / modules[1]["path"] / "config.json").read_text())
    (key,) = [key for key, value in found.items() if key.startswith("pooling_mode_") and value is True]
    assert POOLING_MODES[pooling] in key
    settings = json.loads((tmp_path / "out" / "sentence_bert_config.json").read_text())
    assert settings["max_seq_length"] == CONTEXT


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("trap", [{"padding_side": "left"}, {"chat_template": CHAT}], ids=["left", "chat"])
def test_tokenizers_that_pad_left_or_carry_a_chat_template(
    tmp_path: Path, trap: dict[str, str], pooling: PoolingName
) -> None:
    source = write_model(tmp_path / "base", **trap)  # type: ignore[arg-type]
    encoder, tokenizer = load(source, pooling)
    Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="")
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    ours = Embedder(encoder, tokenizer, CONTEXT).embed(TEXTS)
    np.testing.assert_allclose(model.encode(list(TEXTS), batch_size=3), ours, atol=1e-5)
    again, again_tokenizer, _ = load_exported(tmp_path / "out")
    np.testing.assert_allclose(Embedder(again, again_tokenizer, CONTEXT).embed(TEXTS), ours, atol=1e-5)


def test_what_computes_in_bf16_is_exported(tmp_path: Path) -> None:
    """Its vectors are a rounding apart from those of the folder, which sentence-transformers computes in fp32."""
    source = write_model(tmp_path / "base")
    embedder = Embedder(Encoder(load_model(str(source)), "mean"), load_tokenizer(str(source)), CONTEXT)
    embedder.in_precision("bf16").save(tmp_path / "out")


def test_a_tokenizer_that_pads_left_is_saved_padding_right(tmp_path: Path) -> None:
    # learned absolute positions: a transformer fed left padding without position ids reads the wrong ones
    texts = ["w5", "w6 w7 w8 w9 w10"]
    encoder, tokenizer = Encoder(tiny("gpt2"), "mean"), tiny_tokenizer(padding_side="left")
    Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="")
    assert tokenizer.padding_side == "left"
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(model.encode(texts), Embedder(encoder, tokenizer, CONTEXT).embed(texts), atol=1e-5)


def test_how_a_tokenizer_cut_its_last_texts_is_not_written(tmp_path: Path) -> None:
    """A second export, which follows the first one's probes of 64 tokens, was refused: its tokenizer.json cut there."""
    source = write_model(tmp_path / "base")
    embedder = Embedder(Encoder(load_model(str(source)), "mean"), load_tokenizer(str(source)), 80)
    for name in ("first", "second"):
        embedder.save(tmp_path / name)
        written = json.loads((tmp_path / name / "tokenizer.json").read_text())
        assert (written["truncation"], written["padding"]) == (None, None)


def test_a_tokenizer_is_written_in_words_that_earlier_versions_of_transformers_read(tmp_path: Path) -> None:
    """Version 4 knows no TokenizersBackend, and fails on a list, be it empty, as `extra_special_tokens`."""
    for name, extra in (("none", []), ("some", ["w5", "w6"])):
        tokenizer = tiny_tokenizer()
        tokenizer.add_special_tokens({"extra_special_tokens": extra})
        Embedder(Encoder(tiny("gpt_neox"), "mean"), tokenizer, CONTEXT).save(tmp_path / name, card="")
        settings = json.loads((tmp_path / name / "tokenizer_config.json").read_text())
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert "extra_special_tokens" not in settings
        assert settings.get("additional_special_tokens", []) == extra
        assert load_exported(tmp_path / name)[1].extra_special_tokens == extra


def test_half_precision_weights_are_written_as_fp32(tmp_path: Path) -> None:
    source = write_model(tmp_path / "base")
    encoder, tokenizer = load(source)
    encoder.to(torch.bfloat16)
    Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="")
    assert {value.dtype for value in encoder.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in SentenceTransformer(str(tmp_path / "out")).parameters()} == {torch.float32}


def test_the_adapter_is_kept_beside_the_merged_model(tmp_path: Path) -> None:
    source = write_model(tmp_path / "base")
    encoder, tokenizer = fine_tuned(source, LoRA(rank=4, alpha=8), "mean"), load_tokenizer(str(source))
    Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="# mine\n", keep_adapter=True)
    rebuilt = Encoder(PeftModel.from_pretrained(load_model(str(source)), str(tmp_path / "out" / "adapter")), "mean")
    np.testing.assert_allclose(
        Embedder(rebuilt, tokenizer, CONTEXT).embed(TEXTS),
        Embedder(encoder, tokenizer, CONTEXT).embed(TEXTS),
        atol=1e-6,
    )
    # the adapter beside it does not change what the folder is
    exported, _, _ = load_exported(tmp_path / "out")
    assert not isinstance(exported.model, PeftModel)
    assert (tmp_path / "out" / "README.md").read_text() == "# mine\n"


def test_no_pickle_and_nothing_left_behind(tmp_path: Path) -> None:
    source = write_model(tmp_path / "base")
    encoder, tokenizer = fine_tuned(source, LoRA(rank=4), "mean"), load_tokenizer(str(source))
    Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="", keep_adapter=True)
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md", ".txt", ".jinja"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]
    assert not [file for file in (tmp_path / "out").rglob("*") if file.name.startswith(".")]


def test_adapter_asked_for_without_lora(tmp_path: Path) -> None:
    encoder, tokenizer = load(write_model(tmp_path / "base"))
    with pytest.raises(InputError, match="LoRA"):
        Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="", keep_adapter=True)


def test_an_earlier_export_is_replaced_and_the_rest_of_the_folder_left_alone(tmp_path: Path) -> None:
    source, out = write_model(tmp_path / "base"), tmp_path / "out"
    (out / "training").mkdir(parents=True)
    (out / "training" / "metrics.jsonl").write_text("{}")
    (out / "recipe.json").write_text("{}")
    tokenizer = load_tokenizer(str(source))
    lora = fine_tuned(source, LoRA(rank=4), "mean")
    Embedder(lora, tokenizer, CONTEXT).save(out, card="first", keep_adapter=True)
    full = fine_tuned(source, Full(), "mean")
    Embedder(full, tokenizer, CONTEXT).save(out, card="second")
    assert (out / "README.md").read_text() == "second"
    assert not (out / "adapter").exists()  # another model's
    assert (out / "training" / "metrics.jsonl").exists()
    assert (out / "recipe.json").exists()
    exported, _, _ = load_exported(out)
    ours = Embedder(full, tokenizer, CONTEXT).embed(TEXTS)
    np.testing.assert_allclose(Embedder(exported, tokenizer, CONTEXT).embed(TEXTS), ours, atol=1e-5)


def test_a_file_that_no_export_wrote_is_never_touched(tmp_path: Path) -> None:
    encoder, tokenizer = load(write_model(tmp_path / "base"))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"README\.md"):
        Embedder(encoder, tokenizer, CONTEXT).save(theirs, card="")
    assert [path.name for path in theirs.iterdir()] == ["README.md"]
    assert (theirs / "README.md").read_text() == "mine"
    with pytest.raises(InputError, match="is a file"):
        Embedder(encoder, tokenizer, CONTEXT).save(theirs / "README.md", card="")


def test_a_marker_cannot_name_what_lies_outside(tmp_path: Path) -> None:
    encoder, tokenizer = load(write_model(tmp_path / "base"))
    (tmp_path / "precious").mkdir()
    (tmp_path / "out").mkdir()
    for names in ([""], ["../precious"], [str(tmp_path / "precious")], [".."], "precious", [3]):
        (tmp_path / "out" / "isoembed.json").write_text(json.dumps(names))
        with pytest.raises(InputError, match=r"isoembed\.json"):
            Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="")
        assert (tmp_path / "precious").is_dir()


def test_a_failing_export_leaves_the_earlier_one_whole(tmp_path: Path) -> None:
    encoder, tokenizer = load(write_model(tmp_path / "base"))
    Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="first")
    there = sorted((tmp_path / "out").rglob("*"))
    broken = copy.deepcopy(encoder)
    broken.pooling = "no such pooling"
    with pytest.raises(KeyError):
        Embedder(broken, tokenizer, CONTEXT).save(tmp_path / "out", card="second")
    assert (tmp_path / "out" / "README.md").read_text() == "first"
    assert sorted((tmp_path / "out").rglob("*")) == there
    load_exported(tmp_path / "out")


@pytest.mark.parametrize("moved", range(8))
def test_a_kill_while_files_move_leaves_no_half_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    encoder, tokenizer = load(write_model(tmp_path / "base"))
    Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="first")
    rename, calls = Path.rename, []

    def dies(self: Path, target: Path) -> Path:
        if target.parent == tmp_path / "out":
            calls.append(target)
            if len(calls) > moved:
                raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="second")
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"must hold modules\.json"):
        load_exported(tmp_path / "out")
    Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="third")
    load_exported(tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "third"


def saved(tmp_path: Path, *tail: nn.Module, pooling: str = "mean") -> Path:
    """A sentence-transformers folder that somebody else made."""
    transformer = Transformer(str(write_model(tmp_path / "base")))
    SentenceTransformer(modules=[transformer, Pooling(16, pooling), *tail], device="cpu").save(
        str(tmp_path / "theirs"), create_model_card=False
    )
    return tmp_path / "theirs"


@pytest.mark.parametrize("pooling", POOLING_MODES.values())
def test_reads_other_peoples_folders(tmp_path: Path, pooling: str) -> None:
    folder = saved(tmp_path, pooling=pooling)
    encoder, tokenizer, context = load_exported(folder)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS), normalize_embeddings=True)
    np.testing.assert_allclose(Embedder(encoder, tokenizer, context).embed(TEXTS), theirs, atol=1e-5)


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"modules\.json"):
        load_exported(tmp_path / "nothing")
    folder = saved(tmp_path, pooling="mean_sqrt_len_tokens")
    with pytest.raises(InputError, match="'mean_sqrt_len_tokens'"):
        load_exported(folder)
    (folder / "model.safetensors").rename(tmp_path / "weights")
    torch.save({}, folder / "pytorch_model.bin")  # a pickle is no substitute
    with pytest.raises(InputError, match="cannot be read"):
        load_exported(folder)
    (folder / "modules.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        load_exported(folder)


def test_a_module_with_weights_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, Dense(16, 8), Normalize())
    with pytest.raises(InputError, match="Dense"):
        load_exported(folder)


def test_a_folder_with_a_default_prompt_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    config = json.loads((folder / "config_sentence_transformers.json").read_text())
    config |= {"prompts": {"query": "find: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="prompt"):
        load_exported(folder)


# transformers reads any tokenizer beside a Qwen2 model as Qwen2's own, which the tiny one is not
@pytest.mark.parametrize("architecture", sorted(configs().keys() - {"qwen2"}))
def test_every_architecture(tmp_path: Path, architecture: str) -> None:
    texts = ["w5 w6 w7", "w9", " ".join(f"w{index}" for index in range(4, 60)), "w10 w11 w12 w13"]
    encoder, tokenizer = Encoder(tiny(architecture), "mean"), tiny_tokenizer()
    Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="")
    ours = Embedder(encoder, tokenizer, CONTEXT).embed(texts)
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(model.encode(texts), ours, atol=1e-5)
    assert model.get_embedding_dimension() == ours.shape[1]
    again, again_tokenizer, context = load_exported(tmp_path / "out")
    np.testing.assert_allclose(Embedder(again, again_tokenizer, context).embed(texts), ours, atol=1e-5)


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "first", "max", "last"])
def test_prompts_travel_with_the_model(tmp_path: Path, pooling: PoolingName, pooled: bool) -> None:
    """Under sentence-transformers' own names, one for each side, pooled or not; and back."""
    source = write_model(tmp_path / "base")
    tokenizer, texts = load_tokenizer(str(source), pooling=pooling), [text for text in TEXTS if 1 < len(text) < 100]
    encoder = Encoder(load_model(str(source)), pooling, Prompts(query="find: ", positive="a text: ", pooled=pooled))
    Embedder(encoder.eval(), tokenizer, CONTEXT * 2).save(tmp_path / "out", card="")
    again, again_tokenizer, _ = load_exported(tmp_path / "out")
    assert again.prompts == encoder.prompts
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    bare = Embedder(Encoder(encoder.model, pooling), tokenizer, CONTEXT * 2).embed(texts)
    for name, as_queries in (("query", True), ("document", False)):
        ours = Embedder(encoder, tokenizer, CONTEXT * 2).embed(texts, "query" if as_queries else "document")
        np.testing.assert_allclose(model.encode(texts, prompt_name=name), ours, atol=1e-5)
        theirs = (model.encode_query if as_queries else model.encode_document)(texts)
        np.testing.assert_allclose(theirs, ours, atol=1e-5)
        back = Embedder(again, again_tokenizer, CONTEXT * 2).embed(texts, "query" if as_queries else "document")
        np.testing.assert_allclose(back, ours, atol=1e-5)
        assert np.abs(ours - bare).max() > 1e-3  # it is read, whether pooled or not
    if pooling in ("mean", "max", "first"):
        other = Encoder(encoder.model, pooling, encoder.prompts.model_copy(update={"pooled": not pooled}))
        vectors = Embedder(other, tokenizer, CONTEXT * 2).embed(texts, "query")
        assert np.abs(vectors - Embedder(encoder, tokenizer, CONTEXT * 2).embed(texts, "query")).max() > 1e-3


# transformers reads any tokenizer beside a Qwen2 model as Qwen2's own, which the tiny one is not
@pytest.mark.parametrize("architecture", sorted(configs().keys() - {"qwen2"}))
def test_attention_both_ways_travels_with_the_model(tmp_path: Path, architecture: str) -> None:
    """Read at the first token, which in a decoder knows nothing of the rest: with both ways it does, here, in
    sentence-transformers, and read back; padded or alone."""
    texts = ["w5 w6 w7", "w5 w6 w8", "w5", "w5 " + " ".join(f"w{index}" for index in range(4, 20))]
    tokenizer = tiny_tokenizer()
    causal = Embedder(Encoder(tiny(architecture), "first"), tokenizer, CONTEXT).embed(texts)
    np.testing.assert_allclose(causal[1:], causal[:-1], atol=1e-5)
    encoder = Encoder(attend_both_ways(tiny(architecture)), "first")
    ours = Embedder(encoder, tokenizer, CONTEXT).embed(texts)
    assert np.abs(ours[1:] - ours[:-1]).max(1).min() > 1e-4
    Embedder(encoder, tokenizer, CONTEXT).save(tmp_path / "out", card="")
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(model.encode(texts), ours, atol=1e-5)
    np.testing.assert_allclose(model.encode(texts, batch_size=1), ours, atol=1e-5)
    again, again_tokenizer, context = load_exported(tmp_path / "out")
    np.testing.assert_allclose(Embedder(again, again_tokenizer, context).embed(texts), ours, atol=1e-5)


def test_an_architecture_that_cannot_look_ahead_is_refused() -> None:
    with torch.random.fork_rng():
        recurrent = MambaModel(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4))
    with pytest.raises(InputError, match="mamba's does not"):
        attend_both_ways(recurrent.eval())


def test_prompts_of_sources_travel_by_name(tmp_path: Path) -> None:
    """Listed beside those for all texts, which `encode_query` and `encode_document` still put in front; and back."""
    source = write_model(tmp_path / "base")
    tokenizer, texts = load_tokenizer(str(source)), [text for text in TEXTS if 1 < len(text) < 100]
    own = (SourcePrompts(source="faq", query="ask: "), SourcePrompts(source="hub:a/b-c", positive="say: "))
    prompts = Prompts(query="find: ", positive="a text: ", sources=own)
    encoder = Encoder(load_model(str(source)), "mean", prompts).eval()
    embedder = Embedder(encoder, tokenizer, CONTEXT * 2)
    embedder.save(tmp_path / "out", card="")
    assert load_exported(tmp_path / "out")[0].prompts == prompts
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert model.prompts == prompts.named
    np.testing.assert_allclose(model.encode_query(texts), embedder.embed(texts, "query"), atol=1e-5)
    encoder.prompts = Prompts(query="ask: ", positive="say: ")
    for name, as_query in (("faq-query", True), ("hub:a/b-c-document", False)):
        ours = embedder.embed(texts, "query" if as_query else "document")
        np.testing.assert_allclose(model.encode(texts, prompt_name=name), ours, atol=1e-5)


def test_weights_that_count_the_prompt_cannot_leave_it_out() -> None:
    with pytest.raises(InputError, match="weighted-mean"):
        Encoder(tiny("gpt2"), "weighted-mean", Prompts(query="find: ", pooled=False))


def test_qlora_is_exported_merged_into_unpacked_weights(tmp_path: Path) -> None:
    """As trained, to the same 1e-5; merged into weights in 4 bits, the adapter would be rounded away."""
    pytest.importorskip("bitsandbytes")
    test_sentence_transformers_gives_our_vectors(tmp_path, QLoRA(rank=4, alpha=8), "mean")
