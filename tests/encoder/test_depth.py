"""A model cut in depth is its first blocks and its final norm, exactly: built, counted, trained from, exported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import AutoModel

from isoembed.core import InputError
from isoembed.encoder.config import load_config
from isoembed.encoder.depth import first_blocks
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.load import load_model, weights_hash
from isoembed.encoder.shapes import spec_from_config, spec_of
from isoembed.methods import METHODS
from isoembed.methods.parts import blocks_of
from tests.models import CONTEXT, VOCAB, configs, tiny_tokenizer

ENDS: dict[str, Any] = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
SIZED: dict[str, Any] = {
    **ENDS, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": CONTEXT
}  # fmt: skip
GATED: dict[str, Any] = {**SIZED, "intermediate_size": 48, "num_key_value_heads": 2}
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
KINDS = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]


def others() -> dict[str, hf.PreTrainedConfig]:
    """Architectures beside those of every test: what differs from block to block, and names of their own for blocks."""
    latent: dict[str, Any] = {
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
    }
    routed: dict[str, Any] = {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "n_group": 1,
    }
    return {
        "gemma3, kinds": hf.Gemma3TextConfig(**GATED, head_dim=16, sliding_window=4, layer_types=KINDS),
        "gemma2": hf.Gemma2Config(**GATED, head_dim=16, sliding_window=4),
        "qwen2, windows": hf.Qwen2Config(**GATED, use_sliding_window=True, sliding_window=4, max_window_layers=2),
        "qwen3, windows": hf.Qwen3Config(
            **GATED, head_dim=16, use_sliding_window=True, sliding_window=4, max_window_layers=0
        ),
        "smollm3, nope": hf.SmolLM3Config(**GATED, no_rope_layers=[1, 0, 0, 1]),
        "gpt_neo": hf.GPTNeoConfig(
            **ENDS, hidden_size=32, num_layers=4, num_heads=4, window_size=4, max_position_embeddings=CONTEXT,
            attention_types=[[["global"], 1], [["local"], 2], [["global"], 1]],
            resid_dropout=0.0, embed_dropout=0.0, attention_dropout=0.0,
        ),
        "gptj": hf.GPTJConfig(**ENDS, n_embd=32, n_layer=4, n_head=4, rotary_dim=4, n_positions=CONTEXT),
        "mpt": hf.MptConfig(vocab_size=VOCAB, d_model=32, n_layers=4, n_heads=4, max_seq_len=CONTEXT),
        "falcon": hf.FalconConfig(**SIZED, alibi=True, new_decoder_architecture=False),
        "gpt_oss": hf.GptOssConfig(**GATED, **EXPERTS, head_dim=16, sliding_window=4),
        "mixtral": hf.MixtralConfig(**GATED, **EXPERTS),
        "exaone4": hf.Exaone4Config(**GATED, sliding_window=4),
        "glm4": hf.Glm4Config(**GATED, head_dim=16),
        "deepseek_v3": hf.DeepseekV3Config(
            **{**GATED, "num_key_value_heads": 4}, **latent, **routed, topk_group=1, first_k_dense_replace=1
        ),
    }  # fmt: skip


CONFIGS = configs() | others()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Architecture -> folder of a random model of it, made once."""
    made: dict[str, Path] = {}

    def folder(architecture: str) -> Path:
        if architecture not in made:
            place = tmp_path_factory.mktemp("model")
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = AutoModel.from_config(CONFIGS[architecture])
                with torch.no_grad():
                    for value in model.parameters():
                        value.add_(0.05 * torch.randn_like(value))
            model.save_pretrained(place)
            made[architecture] = place
        return made[architecture]

    return folder


def hidden(model: nn.Module) -> torch.Tensor:
    ids_BT = torch.randint(2, VOCAB, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids_BT, use_cache=False).last_hidden_state
    return found


def hidden_after(model: nn.Module, depth: int) -> torch.Tensor:
    """What the whole model gives where every block beyond the first `depth` hands on what it was given."""

    def hand_on(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        return (given, *output[1:]) if isinstance(output, tuple) else given

    hooks = [block.register_forward_hook(hand_on, with_kwargs=True) for block in blocks_of(model)[depth:]]
    found = hidden(model)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_cut_is_the_first_blocks_and_the_final_norm(architecture: str, saved: Any, tmp_path: Path) -> None:
    """Fails where a list with an entry a block keeps the last ones, or a block's kind follows from the block count."""
    source = str(saved(architecture))
    whole = load_model(source)
    blocks = len(blocks_of(whole))
    for depth in range(1, blocks + 1):
        cut = load_model(source, depth=depth)
        assert len(blocks_of(cut)) == depth
        assert torch.equal(hidden(cut), hidden_after(whole, depth))
    assert weights_hash(cut) == weights_hash(whole)
    # saved by transformers it opens as the same model of two blocks
    cut = load_model(source, depth=2)
    cut.save_pretrained(tmp_path)  # type: ignore[operator]
    again = AutoModel.from_pretrained(tmp_path)
    assert again.config.num_hidden_layers == 2
    assert torch.equal(hidden(again.eval()), hidden(cut))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_counts_of_a_cut_are_those_of_the_cut_model(architecture: str, saved: Any) -> None:
    source = str(saved(architecture))
    whole = spec_from_config(source)
    alike = len({*whole.block_params, *whole.idle_block_params}) <= 1 + bool(whole.idle_block_params)
    for depth in range(1, whole.blocks):
        cut = spec_from_config(source, depth=depth)
        assert (cut.depth, cut.blocks, cut.name) == (depth, depth, f"{whole.name}@{depth}")
        model = load_model(cut.source, depth=depth)
        assert cut.total_params == sum(value.numel() for value in model.parameters())
        assert cut.block_params == whole.block_params[:depth]
        if alike:  # arithmetic gives the same, to the last field
            assert whole.first(depth).model_copy(update={"dense": cut.dense}) == cut
            assert whole.first(depth).same_shape(cut)
            for method in METHODS:
                trained = method().cost(cut) if not _refused(method(), cut) else None
                assert trained == (method().cost(whole.first(depth)) if trained else None)


def _refused(method: Any, spec: Any) -> bool:
    try:
        method.cost(spec)
    except InputError:
        return True
    return False


@pytest.mark.parametrize("architecture", [name for name in CONFIGS if not name.startswith("qwen2")])
def test_an_export_of_a_cut_encodes_as_ours(architecture: str, saved: Any, tmp_path: Path) -> None:
    """All but Qwen2, as which transformers opens no tokenizer of words."""
    encoder = Encoder(load_model(str(saved(architecture)), depth=2), "mean").eval()
    embedder = Embedder(encoder, tiny_tokenizer(), context_tokens=16)
    embedder.save(tmp_path / "out")
    model: Any = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    texts = ["w4 w5 w6", "w7 " * 12, "w63"]
    np.testing.assert_allclose(model.encode(texts), embedder.embed(texts), atol=1e-6)
    assert len(blocks_of(model[0].auto_model)) == 2
    if architecture == "gemma3, kinds":
        assert model[0].auto_model.config.layer_types == KINDS[:2]


def test_lists_that_are_not_of_blocks_stay() -> None:
    """Three ends of a text are no list of three blocks."""
    config = hf.LlamaConfig(**{**GATED, "num_hidden_layers": 3, "eos_token_id": [0, 2, 3]})
    assert first_blocks(config, 2, "llama").eos_token_id == [0, 2, 3]
    assert config.num_hidden_layers == 3  # the whole's own is left alone


@pytest.mark.parametrize("depth", [0, -1, 4])
def test_a_depth_beyond_the_blocks_is_refused(depth: int, saved: Any) -> None:
    with pytest.raises(InputError, match=r"`depth` must be 1 to 3, the blocks of .*; got"):
        load_config(str(saved("llama")), depth=depth)


def test_a_cut_that_would_be_opened_as_another_model_is_refused() -> None:
    """An architecture that sets its last block's kind itself: the export would not be what was trained."""

    class Forced(hf.SmolLM3Config):
        def __post_init__(self, **kwargs: Any) -> None:
            super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
            assert self.no_rope_layers is not None
            self.no_rope_layers = [*self.no_rope_layers[:-1], 1]

    config = Forced(**GATED, no_rope_layers=[1, 0, 1, 1])
    assert first_blocks(config, 3, "mine").no_rope_layers == [1, 0, 1]
    with pytest.raises(InputError, match="demands a certain kind of last block"):
        first_blocks(config, 2, "mine")


def test_a_model_without_experts_below_the_cut_is_still_counted(saved: Any) -> None:
    spec = spec_from_config(str(saved("deepseek_v3")), depth=1)
    assert spec.idle_params == 0
    with pytest.raises(InputError, match="Experts must be stacked"):
        spec_of(load_model(spec.source, depth=1), "mine", "somewhere")
