"""`isoembed certify`: five faults that people complain of, planted, and a model that has none."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from torch import nn
from transformers import BertConfig, BertModel, GPTNeoXConfig, GPTNeoXModel

import isoembed
from isoembed.core import InputError
from isoembed.encoder import export
from isoembed.encoder.certificate import CERTIFICATE, ExportError, Origin, examine_afresh, trained
from isoembed.encoder.exported import open_sentence_transformer
from isoembed.encoder.statement import ADAPTER_FILES, Fingerprint
from isoembed.records import RECIPE, RECORD
from isoembed.workflows.models import chosen
from tests.commands import Outcome, command
from tests.data.helpers import write_jsonl
from tests.models import configs, tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model, pairs, and a model trained by LoRA on the last token, with its adapter beside it."""
    inside = tmp_path_factory.mktemp("certified")
    tiny_tokenizer().save_pretrained(inside / "base")
    tiny("gpt_neox").save_pretrained(inside / "base")  # type: ignore[operator]
    words = [f"w{4 + n % 60} w{4 + n // 60} w{4 + n * 7 % 60}" for n in range(120)]
    write_jsonl(inside / "pairs.jsonl", [{"query": text, "pos": f"{text} w7"} for text in words])
    done = _train(inside, "out", "--method=lora", "--rank=2", "--keep-adapter")
    assert not done.status, done.err
    return inside


def _command(*arguments: str, inside: Path) -> Outcome:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(inside))
        return command(*arguments, inside=inside)


def _train(inside: Path, out: str, *more: str) -> Outcome:
    asked = ["train", "--budget=2e8", "--model=base", "--data=pairs.jsonl", "--batch-pairs=16", "--pooling=last"]
    return _command(*asked, "--context-tokens=16", f"--out={out}", *more, inside=inside)


def _edit(file: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def _untrained_adapter(folder: Path) -> None:
    file = folder / "adapter" / "adapter_model.safetensors"
    save_file({name: value * (".lora_B." not in name) for name, value in load_file(file).items()}, file)


def _adapter_of_nan(folder: Path) -> None:
    file = folder / "adapter" / "adapter_model.safetensors"
    save_file({name: value * float("nan") for name, value in load_file(file).items()}, file)


def _contradicted_under_another_name(folder: Path) -> None:
    _half_named(folder)
    (folder / "1_Pooling").rename(folder / "pool")
    _edit(folder / "modules.json", lambda content: content[1].update(path="pool"))


def _no_number(folder: Path) -> None:
    _edit(folder / "sentence_bert_config.json", lambda content: content.update(max_seq_length="16"))


def _dropped_bias(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["layers.1.attention.dense.bias"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _biases_of_zero(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    zeros = {name: value * (not name.endswith("dense.bias")) for name, value in tensors.items()}
    save_file(zeros, folder / "model.safetensors", {"format": "pt"})


def _wrong_pooling(folder: Path) -> None:
    modes = {"pooling_mode": "mean", "pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True}
    _edit(folder / "1_Pooling" / "config.json", lambda content: content.update(modes))


def _half_named(folder: Path) -> None:
    """The pooling by one of its two names alone, so that libraries differ in what they read."""
    modes = {"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True}
    _edit(folder / "1_Pooling" / "config.json", lambda content: content.update(modes))


def _no_end_token(folder: Path) -> None:
    _edit(folder / "tokenizer.json", lambda content: content.update(post_processor=None))


def _half_the_blocks(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: value for name, value in tensors.items() if not name.startswith(("layers.1.", "layers.2."))},
        folder / "model.safetensors",
    )
    _edit(folder / "config.json", lambda content: content.update(num_hidden_layers=1))


def _base_weights(folder: Path) -> None:
    shutil.copy(folder.parent / "base" / "model.safetensors", folder / "model.safetensors")


def _cut_by_others(folder: Path) -> None:
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    _edit(folder / "tokenizer.json", lambda content: content.update(truncation=cut))


def _both_ways(folder: Path) -> None:
    _edit(folder / "config.json", lambda content: content.update(is_causal=False))


def _padding_for_an_end(folder: Path) -> None:
    """Every text ends in a special token, but not in that of the training."""

    def change(content: Any) -> None:
        content["post_processor"]["single"][-1]["SpecialToken"]["id"] = "<pad>"
        content["post_processor"]["special_tokens"] = {"<pad>": {"id": "<pad>", "ids": [1], "tokens": ["<pad>"]}}

    _edit(folder / "tokenizer.json", change)


def _fewer_heads(folder: Path) -> None:
    _edit(folder / "config.json", lambda content: content.update(num_attention_heads=2))


def _other_activation(folder: Path) -> None:
    _edit(folder / "config.json", lambda content: content.update(hidden_act="relu"))


def _other_rotation(folder: Path) -> None:
    _edit(folder / "config.json", lambda content: content["rope_parameters"].update(rope_theta=500.0))


def _cut_on_the_left(folder: Path) -> None:
    _edit(folder / "tokenizer_config.json", lambda content: content.update(truncation_side="left"))


def _not_normalised(folder: Path) -> None:
    _edit(folder / "modules.json", lambda content: content.pop())


def _padded_on_the_left(folder: Path) -> None:
    _edit(folder / "tokenizer_config.json", lambda content: content.update(padding_side="left"))


def _other_similarity(folder: Path) -> None:
    _edit(folder / "config_sentence_transformers.json", lambda content: content.update(similarity_fn_name="euclidean"))


def _default_prompt(folder: Path) -> None:
    prompts = {"query": "q: ", "document": ""}
    change = {"prompts": prompts, "default_prompt_name": "query"}
    _edit(folder / "config_sentence_transformers.json", lambda content: content.update(change))


def _other_words(folder: Path) -> None:
    """The ids of words that no probe has, rotated by one."""

    def change(content: Any) -> None:
        words = [word for word in content["model"]["vocab"] if word.startswith("w") and word[1:].isdigit()]
        ids = [content["model"]["vocab"][word] for word in words]
        content["model"]["vocab"].update(zip(words, [*ids[1:], ids[0]], strict=True))

    _edit(folder / "tokenizer.json", change)


def _another_normalizer(folder: Path) -> None:
    rule = {"type": "Replace", "pattern": {"String": "w9"}, "content": "w8"}
    _edit(folder / "tokenizer.json", lambda content: content.update(normalizer=rule))


def _half_precision(folder: Path) -> None:
    _edit(folder / "config.json", lambda content: content.update(dtype="bfloat16"))


def _short_for_others(folder: Path) -> None:
    _edit(folder / "tokenizer_config.json", lambda content: content.update(model_max_length=10))


def _other_width(folder: Path) -> None:
    _edit(folder / "1_Pooling" / "config.json", lambda content: content.update(embedding_dimension=12))


def _unknown_output(folder: Path) -> None:
    _edit(folder / "sentence_bert_config.json", lambda content: content.update(module_output_name="foo"))


FAULTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "untrained adapter": (_untrained_adapter, "adapter", "factors of the adapter are zero or no number"),
    "adapter of NaN": (_adapter_of_nan, "adapter", "factors of the adapter are zero or no number"),
    "another name": (_contradicted_under_another_name, "pooling", "lasttoken by one of its names, mean by the other"),
    "no number": (_no_number, "opens", "`max_seq_length` is '16'"),
    "dropped bias": (_dropped_bias, "opens", "layers.1.attention.dense.bias"),
    "biases of zero": (_biases_of_zero, "trained", "has layers.0.attention.dense.bias"),
    "wrong pooling": (_wrong_pooling, "pooling", "mean, not lasttoken"),
    "half-named pooling": (_half_named, "pooling", "lasttoken by one of its names, mean by the other"),
    "no end token": (_no_end_token, "end token", "texts do not end in one special token"),
    "half the blocks": (_half_the_blocks, "trained", "has 1 of the 3 blocks of "),
    "untrained": (_base_weights, "trained", "is untrained: every tensor is that of "),
    "both ways": (_both_ways, "direction", "tokens read the whole text, not tokens read those before them"),
    "padding for an end": (_padding_for_an_end, "base's tokens", "is read as token 1 at place 1 of 1, not 0"),
    "fewer heads": (_fewer_heads, "configuration", "`num_attention_heads` is 2, not 4"),
    "other activation": (_other_activation, "configuration", "`hidden_act` is relu, not gelu"),
    "other rotation": (_other_rotation, "configuration", "`rope_parameters` is {"),
    "cut on the left": (_cut_on_the_left, "base's tokens", "is read as token"),
    "padded on the left": (_padded_on_the_left, "padding side", "pads on the left, not pads on the right"),
    "other similarity": (_other_similarity, "similarity", "euclidean, not cosine"),
    "default prompt": (_default_prompt, "default prompt", "where no side is named, that of 'query', not"),
    "other words": (_other_words, "base's tokens", "is read as tokens ["),
    "another normalizer": (_another_normalizer, "base's tokens", "'w9' is read as tokens ["),
    "half precision": (_half_precision, "precision", "opens in bfloat16, not opens in float32"),
    "short for others": (
        _short_for_others,
        "truncation",
        "tokenizer_config.json cuts texts at 10 tokens, the model at",
    ),
    "other width": (_other_width, "width", "and the folder says 12"),
    "unknown output": (_unknown_output, "reads texts", "token_embeddings"),
    "not normalised": (_not_normalised, "length", "vectors of length"),
    "cut by others": (_cut_by_others, "truncation", "tokenizer.json cuts texts at 8 tokens, the model at 16"),
}


@pytest.mark.parametrize("certified", [True, False], ids=["with certificate", "without"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, certified: bool, whole: Path, tmp_path: Path) -> None:
    """By what was stated at the export, and, but for what nobody can know then, by record and base alone."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    plant, name, seen = FAULTS[fault]
    plant(tmp_path / "out")
    if not certified:
        (tmp_path / "out" / CERTIFICATE).unlink()
    done = _command("certify", "out", "--json", inside=tmp_path)
    assert done.status == 1, done.err
    failed = {check["name"]: check["seen"] for check in json.loads(done.out)["checks"] if check["passed"] is False}
    assert seen in failed[name]


@pytest.mark.parametrize(
    ("change", "status", "seen"),
    [
        (lambda content: content["statement"]["probes"].pop(), 1, "speaks of other texts"),
        (lambda content: content["statement"]["probes"][0].update(text="zz"), 1, "speaks of other texts"),
        (
            lambda content: content["statement"]["probes"][1].update(vector=None),
            1,
            "vectors of the query side are inf apart",
        ),
        (lambda content: content["statement"].update(pooling="first"), 1, "is of another training than"),
        (lambda content: content["statement"].update(pooling="foo"), 2, "is damaged"),
    ],
)
def test_a_certificate_that_was_edited_is_found(
    change: Callable[[Any], None], status: int, seen: str, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    _edit(tmp_path / "out" / CERTIFICATE, change)
    done = _command("certify", "out", "--json", inside=tmp_path)
    assert done.status == status
    assert seen in done.out + done.err


def test_a_certificate_that_is_none_is_said_in_one_line(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "out" / CERTIFICATE
    for content in ("[]", "{}"):
        file.write_text(content)
        with pytest.raises(InputError, match=r"is damaged \([^\n]*\)\. Export the model anew\.$"):
            isoembed.certify(tmp_path / "out")
    file.unlink()
    file.mkdir()
    with pytest.raises(InputError, match="is damaged"):  # was IsADirectoryError
        isoembed.certify(tmp_path / "out")


def test_a_kept_adapter_that_cannot_be_read_is_one_failed_check(whole: Path, tmp_path: Path) -> None:
    """It ended all the other checks."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "out" / "adapter" / "adapter_model.safetensors").write_bytes(b"no weights")
    found = isoembed.certify(tmp_path / "out")
    assert [check.name for check in found.failures] == ["adapter"]
    assert found.failures[0].seen.startswith("cannot be read (")
    assert len(found.checks) > 10


def test_a_base_is_named_alike_in_python_and_on_the_command_line(whole: Path, tmp_path: Path) -> None:
    """A folder here of a built-in model's name was that model to the one and the folder to the other."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "out", tmp_path / "nano-51k")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path)
        found = {check.name: check.seen for check in isoembed.certify("out", base="nano-51k").failures}
        said = json.loads(_command("certify", "out", "--base=nano-51k", "--json", inside=tmp_path).out)
        own = {check.name: check.seen for check in isoembed.certify("out", base="./nano-51k").failures}
    assert found == {check["name"]: check["seen"] for check in said["checks"] if check["passed"] is False}
    assert "`num_attention_heads` is 4, not 2" in found["configuration"]
    assert "is untrained" in own["trained"]


@pytest.mark.parametrize("plant", [_other_words, _another_normalizer])
def test_the_certificate_alone_knows_the_tokenizer(plant: Callable[[Path], None], whole: Path, tmp_path: Path) -> None:
    """Without record and base, and for words that no probe has."""
    shutil.copytree(whole / "out", tmp_path / "out")
    (tmp_path / "out" / RECORD).unlink()
    plant(tmp_path / "out")
    failed = {check.name for check in isoembed.certify(tmp_path / "out").failures}
    assert "vocabulary's tokens" in failed


def test_another_adapter_than_was_trained_is_found(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "out", tmp_path / "out")
    _edit(tmp_path / "out" / "adapter" / "adapter_config.json", lambda content: content.update(lora_alpha=400))
    failed = {check.name: check.seen for check in isoembed.certify(tmp_path / "out", base=str(whole / "base")).failures}
    assert failed == {"adapter": "another one than was trained"}


def test_a_base_of_another_width_is_another_model(whole: Path, tmp_path: Path) -> None:
    """All tensors differ, and by their names alone that was a training."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "out" / RECORD).unlink()
    wider = GPTNeoXConfig(**{**configs()["gpt_neox"].to_dict(), "hidden_size": 64})
    GPTNeoXModel(wider).save_pretrained(tmp_path / "wider")
    tiny_tokenizer().save_pretrained(tmp_path / "wider")
    done = _command("certify", "out", "--base=wider", inside=tmp_path)
    assert done.status == 1
    assert "of another shape than" in " ".join(done.out.split())


@pytest.mark.parametrize("inner", ["", "0_Transformer"], ids=["flat", "with a folder for the transformer"])
def test_others_models_are_compared_with_an_encoder(inner: str, tmp_path: Path) -> None:
    """As sentence-transformers trains them: the base may be an encoder, bare or an embedding model itself."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    model = BertModel(BertConfig(vocab_size=len(tiny_tokenizer()), **sizes))
    for place in (tmp_path / "bert", tmp_path / "base" / inner, tmp_path / "tuned" / inner):
        model.save_pretrained(place)
        tiny_tokenizer().save_pretrained(place)
    for folder in (tmp_path / "base", tmp_path / "tuned"):
        listed = [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (kind, path) in enumerate((("Transformer", inner), ("Pooling", "1_Pooling")))
        ]
        (folder / "modules.json").write_text(json.dumps(listed))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(
            json.dumps({"embedding_dimension": 16, "pooling_mode": "mean"})
        )
        (folder / inner / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    # saved without its pooler, which nobody reads, as many are, or with one that was drawn when it was opened
    model = BertModel.from_pretrained(tmp_path / "bert", add_pooling_layer=not inner)
    if model.pooler is not None:
        with torch.no_grad():
            model.pooler.dense.weight.add_(1)
    model.save_pretrained(tmp_path / "tuned" / inner)
    for base in ("bert", "base"):
        done = _command("certify", "tuned", f"--base={base}", inside=tmp_path)
        assert "is untrained: every tensor is that of" in " ".join(done.out.split()), done.err
    with torch.no_grad():
        model.get_parameter("encoder.layer.1.output.dense.weight").add_(0.1)
    model.save_pretrained(tmp_path / "tuned" / inner)
    for base in ("bert", "base"):
        found = isoembed.certify(tmp_path / "tuned", base=str(tmp_path / base))
        seen = {check.name: check for check in found.checks}
        assert found.passed, found.failures
        assert seen["trained"].seen.startswith("1 of ")
        assert seen["base's tokens"].passed
    _edit(tmp_path / "tuned" / inner / "config.json", lambda content: content.update(is_decoder=True))
    _other_words(tmp_path / "tuned" / inner)
    turned = isoembed.certify(tmp_path / "tuned", base=str(tmp_path / "bert"))
    assert {check.name for check in turned.failures} == {"direction", "base's tokens"}


def test_a_base_that_is_named_is_compared_with_the_record(whole: Path, tmp_path: Path) -> None:
    """From Python too, where it is a source and no family's."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for plant in (_both_ways, _padding_for_an_end, _fewer_heads):
        plant(tmp_path / "out")
    (tmp_path / "out" / CERTIFICATE).unlink()
    found = isoembed.certify(tmp_path / "out", base=str(whole / "base"))
    assert {"direction", "base's tokens", "configuration"} <= {check.name for check in found.failures}


def test_a_sound_model_passes(whole: Path) -> None:
    done = _command("certify", "out", inside=whole)
    assert not done.status, done.err + done.out
    assert "checks passed" in done.out
    again = isoembed.certify(whole / "out", base=str(whole / "base"))
    assert again.passed
    assert {check.name for check in again.checks if check.passed is None} == {"distinct"}


def test_without_a_record_half_the_blocks_need_the_base(whole: Path, tmp_path: Path) -> None:
    """A cut model may be meant; beside the whole one it is said."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    _half_the_blocks(tmp_path / "out")
    for file in (CERTIFICATE, RECORD):
        (tmp_path / "out" / file).unlink()
    assert not _command("certify", "out", inside=tmp_path).status
    assert "has 1 of the 3 blocks" in _command("certify", "out", "--base=base", inside=tmp_path).out
    assert not _command("certify", "out", "--base=base@1", inside=tmp_path).status
    more = isoembed.certify(whole / "out", base=chosen(None, str(whole / "base@1"))[0].models[0])
    assert "has 3 blocks, base@1 1" in {check.seen for check in more.failures}


def test_what_was_not_trained_is_no_export(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimiser that updates nothing (adapters lost, a frozen model, a rate of zero) ends in an error, not in a
    model."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("torch.optim.AdamW.step", lambda self, *_, **__: None)
    done = _train(tmp_path, "second", "--method=full")
    assert done.status == 1
    assert "is untrained: every tensor is that of" in done.err
    assert not (tmp_path / "second" / "modules.json").exists()


def like(**digests: str) -> dict[str, Fingerprint]:
    return {name: Fingerprint((2, 3), digest) for name, digest in digests.items()}


def test_trained_tensors_are_those_of_the_method() -> None:
    base = Origin("m", like(a="1", b="2"), 2, frozenset({"a"}))
    assert trained(like(a="3", b="2"), 2, base)[0].passed
    assert "b, which was not trained" in trained(like(a="3", b="4"), 2, base)[0].seen
    assert "lacks b of m" in trained(like(a="3"), 2, base)[0].seen
    assert "has c, which m has not" in trained(like(a="3", b="2", c="1"), 2, base)[0].seen
    both = Origin("m", base.tensors, 2, frozenset({"a", "b"}))
    check, untouched = trained(like(a="3", b="2"), 2, both)
    assert check.passed
    assert untouched == ("b",)  # some parameters get no gradient: who writes the folder knows which
    assert not trained(like(a="3", b="2"), 2, both, known=())[0].passed
    assert trained(like(a="3", b="2"), 2, both, known=untouched)[0].passed

    wider = {**like(b="2"), "a": Fingerprint((2, 4), "3")}
    assert "has a of another shape than m" in trained(wider, 2, both)[0].seen


def test_a_certificate_has_each_tensor_in_one_text_as_those_of_before(whole: Path) -> None:
    """Exports that were published are asked again by what stands there."""
    statement = json.loads((whole / "out" / CERTIFICATE).read_text())["statement"]
    tensors = open_sentence_transformer(whole / "out", device="cpu")[0].auto_model.state_dict()
    for name, tensor in tensors.items():
        shape, digest = statement["tensors"][name].split(" ")
        content = str(tensor.dtype).encode() + tensor.contiguous().numpy().tobytes()
        assert shape == "x".join(map(str, tensor.shape))
        assert digest == hashlib.sha256(content).hexdigest()[:16]


def test_the_export_is_opened_in_a_new_process(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has not written the model: nothing that is patched here holds there."""
    monkeypatch.setattr(export, "examine_afresh", examine_afresh)
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    done = _train(tmp_path, "second", "--method=full")
    assert not done.status, done.err
    found = json.loads((tmp_path / "second" / CERTIFICATE).read_text())
    assert {"tensors", "token ids", "query vectors", "trained"} <= {check["name"] for check in found["checks"]}


def test_a_process_that_cannot_open_it_says_why(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"must open in a new process; it did not: .*modules\.json"):
        examine_afresh(tmp_path)


def test_what_we_do_not_read_is_not_called_bad(whole: Path, tmp_path: Path) -> None:
    """A stranger's Dense with a bias failed, as if the model were broken; Normalize before it was wrong use."""
    transformer, pooling, _ = open_sentence_transformer(whole / "out", device="cpu")
    biased = Dense(transformer.get_embedding_dimension(), 8, activation_function=nn.Identity())
    SentenceTransformer(modules=[transformer, pooling, biased]).save(str(tmp_path / "biased"))
    done = _command("certify", "biased", inside=tmp_path)
    assert done.status == 2
    assert "must be a linear map without bias" in done.err


def test_a_record_of_another_run_is_found(whole: Path, tmp_path: Path) -> None:
    """Of the same shape, so that nothing in the model contradicts it."""
    shutil.copytree(whole / "out", tmp_path / "out")
    _edit(tmp_path / "out" / RECORD, lambda content: content["recipe"].update(seed=7))
    failed = {check.name: check.seen for check in isoembed.certify(tmp_path / "out", base=str(whole / "base")).failures}
    assert failed == {
        "record": f"{RECORD} is of another training than {CERTIFICATE}",
        "recipe": f"{RECIPE} is of another training than {RECORD}",
    }


def test_a_recipe_of_another_run_is_found(whole: Path, tmp_path: Path) -> None:
    """Whoever trains by it gets another model."""
    shutil.copytree(whole / "out", tmp_path / "out")
    _edit(tmp_path / "out" / RECIPE, lambda content: content.update(seed=7))
    failed = {check.name: check.seen for check in isoembed.certify(tmp_path / "out", base=str(whole / "base")).failures}
    assert failed == {"recipe": f"{RECIPE} is of another training than {RECORD}"}


def test_a_damaged_recipe_is_a_failed_check(whole: Path, tmp_path: Path) -> None:
    """And not "reads texts", with what comes after it left out."""
    shutil.copytree(whole / "out", tmp_path / "out")
    (tmp_path / "out" / RECIPE).write_text("{")
    found = isoembed.certify(tmp_path / "out", base=str(whole / "base"))
    assert [check.name for check in found.failures] == ["recipe"]
    assert "trained" in {check.name for check in found.checks}


def test_an_adapter_that_is_gone_is_said_and_no_fault(whole: Path, tmp_path: Path) -> None:
    """The model has it merged."""
    shutil.copytree(whole / "out", tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "adapter")
    found = isoembed.certify(tmp_path / "out", base=str(whole / "base"))
    assert found.passed
    assert ("adapter", None) in {(check.name, check.passed) for check in found.checks}


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_half_an_adapter_is_a_fault(name: str, whole: Path, tmp_path: Path) -> None:
    """One without its weights passed, and one without its settings was the file system's fault."""
    shutil.copytree(whole / "out", tmp_path / "out")
    (tmp_path / "out" / "adapter" / name).unlink()
    failed = {check.name: check.seen for check in isoembed.certify(tmp_path / "out", base=str(whole / "base")).failures}
    assert failed == {"adapter": f"adapter/ has no {name}"}


def test_half_an_adapter_of_which_nothing_is_claimed_is_said(whole: Path, tmp_path: Path) -> None:
    """A stranger's model is not bad for a file beside it."""
    shutil.copytree(whole / "out", tmp_path / "out")
    for name in (CERTIFICATE, RECORD, RECIPE, f"adapter/{ADAPTER_FILES[0]}"):
        (tmp_path / "out" / name).unlink()
    found = isoembed.certify(tmp_path / "out")
    assert found.passed
    assert ("adapter", None) in {(check.name, check.passed) for check in found.checks}


def test_without_its_record_a_recipe_is_held_against_the_certificate(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "out", tmp_path / "out")
    (tmp_path / "out" / RECORD).unlink()
    found = isoembed.certify(tmp_path / "out", base=str(whole / "base"))
    assert found.passed
    assert {("record", None), ("recipe", True)} <= {(check.name, check.passed) for check in found.checks}
    _edit(tmp_path / "out" / RECIPE, lambda content: content.update(seed=7))
    failed = {check.name: check.seen for check in isoembed.certify(tmp_path / "out", base=str(whole / "base")).failures}
    assert failed == {"recipe": f"{RECIPE} is of another training than {CERTIFICATE}"}


def test_a_folder_that_is_no_model_is_wrong_use(tmp_path: Path) -> None:
    done = _command("certify", ".", inside=tmp_path)
    assert done.status == 2
    assert "modules.json" in done.err


def test_an_export_may_be_called_as_its_base_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record names no places: `./mine` was the export itself, or whatever else lay there, and nothing that needs the
    base could be done."""
    tiny_tokenizer().save_pretrained(tmp_path / "base" / "mine")
    tiny("gpt_neox").save_pretrained(tmp_path / "base" / "mine")  # type: ignore[operator]
    words = [f"w{4 + n % 60} w{4 + n // 60} w{4 + n * 7 % 60}" for n in range(120)]
    write_jsonl(tmp_path / "pairs.jsonl", [{"query": text, "pos": f"{text} w7"} for text in words])
    done = _train(tmp_path, "mine", "--model=base/mine", "--schedule=wsd")
    assert not done.status, done.err
    found = isoembed.certify(tmp_path / "mine")
    assert found.passed
    assert found.checks[-1].seen == "its base, ./mine, is not here, or what is here has other weights"
    assert not _command("push", "mine", "acme/mine", "--dry-run", inside=tmp_path).status

    def planned() -> str:
        job = isoembed.plan_extension(
            tmp_path / "mine", tmp_path / "pairs.jsonl", budget=4e8, cache=tmp_path / "isoembed"
        )
        return job.recipe.model.source

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(isoembed.InputError, match=r"\./mine, with the weights .* for, must be here or beside"):
        planned()
    monkeypatch.chdir(tmp_path / "base")
    assert planned() == str(tmp_path / "base" / "mine")
    assert {check.name: check.passed for check in isoembed.certify("../mine").checks}["trained"]
