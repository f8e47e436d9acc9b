import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from isoembed.encoder.base_card import BaseCard, base_card
from isoembed.encoder.card import escape, model_card
from isoembed.families.decoders import classic
from isoembed.methods import LoRA
from isoembed.recipe import DataStats, Setup, solve
from isoembed.records import RunRecord

NASTY = "evil | **bold** <script>alert(1)</script>\n# heading\n---\n[x](javascript:y) `code` ![i](u)"


def a_record(source: str = "EleutherAI/pythia-70m", data: str = "pairs.jsonl") -> RunRecord:
    recipe = solve(
        1e12,
        family="pythia",
        model=classic("pythia-70m", source, 512, 6, 50304, 2048, 1e-3),
        method=LoRA(rank=8),
        data=DataStats(source=data),
        setup=Setup(batch_pairs=16, context_tokens=75),
        learning_rate=1e-3,
    )
    cost = recipe.cost
    return RunRecord(
        recipe=recipe,
        key=recipe.key,
        data_fingerprint="0123456789abcdef",
        forward_params=cost.forward,
        backward_params=cost.backward,
        updated_params=cost.updated,
        table_params=0,
        trainable_params=cost.updated,
        steps=7,
        pairs=112,
        tokens=12345,
        model_flop=9.9e11,
        executed_flop=1.2e12,
        all_in_flop=1.1e12,
        final_loss=2.5,
        wall_seconds=10.0,
        peak_memory_bytes=1,
        tokens_per_second=1234.5,
        loss_curve=(),
        versions={},
        machine={"cpu": "some processor"},
        created="2026-01-01T00:00:00Z",
    )


def front_matter(card: str) -> dict[str, object]:
    """As the hub's own library reads it."""
    data: Any = ModelCard(card).data
    return dict(data.to_dict())


def test_front_matter_is_what_the_hub_reads() -> None:
    read = front_matter(model_card(a_record()))
    assert read["library_name"] == "sentence-transformers"
    assert read["base_model"] == "EleutherAI/pythia-70m"
    assert "sentence-similarity" in str(read["tags"])


def test_a_base_that_the_hub_does_not_know_is_not_claimed() -> None:
    for source in ("nano/nano-200k", "/home/somebody/model", "models/a/b"):
        assert "base_model" not in front_matter(model_card(a_record(source)))


def test_states_recipe_budget_cost_and_scores_side_by_side() -> None:
    scores = {
        "trained": {"held out": {"ndcg@10": 0.51234, "mrr@10": 0.4}, "sts": {"spearman": 0.6}},
        "bm25": {"held out": {"ndcg@10": 0.3, "mrr@10": 0.2}, "sts": {}},
    }
    card = model_card(a_record(), scores, budget_flop=1e12, limits=("English only",))
    for fact in ("lora r=8", "12,345 tokens", "1e+12", "9.9e+11", "1.2e+12", "0123456789abcdef", "English only"):
        assert fact in card
    assert "| trained | 0.512 | 0.400 |" in card
    assert "| bm25 | 0.300 | 0.200 |" in card
    assert "| bm25 | - |" in card  # no score is no zero


def test_the_models_own_scores_are_where_the_hub_looks_for_them() -> None:
    """In the order in which an evaluation has them: the untrained base comes first, and its scores stood in the card
    as the model's."""
    scores: dict[str, dict[str, dict[str, float]]] = {
        "base, untrained": {"held-out pairs": {"ndcg@10": 0.1}, "sts": {"spearman": 0.2}},
        "BM25": {"held-out pairs": {"ndcg@10": 0.3}, "sts": {}},
        "trained": {"held-out pairs": {"ndcg@10": 0.5}, "sts": {"spearman": 0.6}},
        "trained, int8": {"held-out pairs": {"ndcg@10": 0.4}, "sts": {"spearman": 0.5}},
    }
    kinds = {"held-out pairs": "retrieval", "sts": "sts"}
    found: Any = ModelCard(model_card(a_record(), scores, kinds=kinds)).data
    results = [(each.task_type, each.dataset_name, each.metric_type, each.metric_value) for each in found.eval_results]
    assert results == [
        ("information-retrieval", "held-out pairs", "ndcg@10", 0.5),
        ("semantic-similarity", "sts", "spearman", 0.6),
    ]
    assert found.model_name == "pythia-70m"
    for nothing in (None, {"BM25": {"sts": {"spearman": 0.2}}}):
        assert "model-index" not in front_matter(model_card(a_record(), nothing))


def test_nothing_of_the_users_becomes_markup() -> None:
    card = model_card(a_record(data=NASTY), {"trained": {NASTY: {"ndcg@10": 0.5}}}, limits=(NASTY,))
    assert "<script" not in card.replace("\\<script", "")
    assert "**bold**" not in card
    assert "\n# heading" not in card
    assert not re.search(r"(?<!\\)\[x", card)
    row = next(line for line in card.splitlines() if line.startswith("| data |"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3  # one row, two cells
    assert card.count("\n---\n") == 1  # front matter closed once, no rule from the data
    hostile = "\x1b]0;title\x07\x9b2J\u202e\x7f"
    card = model_card(a_record(data=hostile), {"trained": {hostile: {"ndcg@10": 0.5}}}, limits=(hostile,))
    assert card.replace("\n", "").isprintable()  # nothing commands the terminal that shows the file


def test_escape_keeps_plain_words() -> None:
    assert escape("  my data,\n v1.2 (all)  ") == "my data, v1.2 (all)"


def test_the_card_hands_on_what_the_base_says_of_itself() -> None:
    base = BaseCard(license="apache-2.0", languages=("en", "de"), hub_id="acme/base")
    data = "hub:acme/pairs:train:2,local.jsonl:1,hub:acme/pairs:test,hub:other/set"
    read = front_matter(model_card(a_record("./base.gguf", data), base=base))
    assert read["license"] == "apache-2.0"
    assert read["language"] == ["en", "de"]
    assert read["base_model"] == "acme/base"
    assert read["datasets"] == ["acme/pairs", "other/set"]  # of an older record, which its data's name tells
    kept = a_record("./base.gguf", data).model_copy(update={"datasets": ("third/set",)})
    assert front_matter(model_card(kept, base=base))["datasets"] == ["third/set"]
    assert "datasets" not in front_matter(model_card(kept.model_copy(update={"datasets": ()}), base=base))
    nothing = front_matter(model_card(a_record()))
    assert not {"license", "language", "datasets"} & nothing.keys()
    assert "which licence" in model_card(a_record())


@pytest.mark.parametrize(
    ("head", "found"),
    [
        ("license: mit\nlanguage: en", BaseCard(license="mit", languages=("en",))),
        ("license: mit\nlanguage: [en, zh-Hans, 7, 'no code']", BaseCard(license="mit", languages=("en", "zh-Hans"))),
        ("license: [a, b]\nlanguage: {x: y}", BaseCard()),
        ("license: 'x\\n---\\n# no'", BaseCard()),
        ("license: [", BaseCard()),
        ("", BaseCard()),
    ],
)
def test_a_base_is_read_as_a_strangers_text(head: str, found: BaseCard, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n# a model\n")
    assert base_card(str(tmp_path)) == found


def test_a_base_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert base_card(str(tmp_path)) == BaseCard()
    assert base_card("acme/not-in-the-cache") == BaseCard(hub_id="acme/not-in-the-cache")
    assert base_card("nano/nano-28k").license == "cc-by-sa-4.0"
