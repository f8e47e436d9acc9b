"""Pretrain the nano suite: one tokenizer and eight GPT-NeoX causal language models that ship with isoembed.

    python scripts/pretrain_nano.py CORPUS --work build/nano --out src/isoembed/assets/nano --tokens 8e6

CORPUS is a folder of `*.txt.gz` files, one paragraph a line, documents separated by a blank line.  Every size sees the
same tokens in the same order.  The run is seeded and resumable: kill it at any moment and type the same command again.
It logs one JSON line every 50 steps (tokens, FLOP, loss, held-out loss at checkpoints) to WORK/SIZE/log.jsonl and
writes OUT/SIZE as fp16 safetensors that plain `AutoModel.from_pretrained` loads.

Shape legend: B sequences, T tokens a sequence, D hidden width, V vocabulary, N = B*T tokens of a step.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

VOCAB = 4096
SEQUENCE = 128
SEED = 1234
END_OF_TEXT, PADDING = "<|endoftext|>", "<|padding|>"

#: Share of the training tokens taken from each corpus file.  Documentation weighs most: that is what users search.
#: Every one permits redistribution of derived works (public domain, CC0, CC BY 4.0, CC BY-SA 4.0).
MIXTURE = {
    "gutenberg_books": 0.25,
    "msdocs_prose": 0.25,
    "openstax_ccby": 0.2,
    "public_domain_docs": 0.2,
    "chrome_dev_docs": 0.1,
}


@dataclass(frozen=True)
class Size:
    """One size of the suite: `hidden` width D, number of blocks and heads, peak learning rate of pretraining."""

    hidden: int
    blocks: int
    heads: int
    rate: float

    @property
    def non_embedding(self) -> int:
        """Parameters outside the token table: 12 D^2 + 13 D a block (biases and norms in it), 2 D for the last norm."""
        return self.blocks * (12 * self.hidden**2 + 13 * self.hidden) + 2 * self.hidden


SIZES = {
    "nano-28k": Size(24, 4, 2, 1e-2),
    "nano-51k": Size(32, 4, 2, 1e-2),
    "nano-113k": Size(48, 4, 3, 8e-3),
    "nano-200k": Size(64, 4, 4, 6e-3),
    "nano-389k": Size(80, 5, 5, 5e-3),
    "nano-760k": Size(112, 5, 7, 4e-3),
    "nano-1.6m": Size(128, 8, 8, 3e-3),
    "nano-3.1m": Size(160, 10, 10, 2e-3),
}


# ---- corpus -> tokenizer -> token file --------------------------------------------------------------------------


def documents(path: Path) -> Iterator[str]:
    """The documents of one corpus file, paragraphs joined by a newline."""
    paragraphs: list[str] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                paragraphs.append(line.strip())
            elif paragraphs:
                yield "\n".join(paragraphs)
                paragraphs = []
    if paragraphs:
        yield "\n".join(paragraphs)


def passages(path: Path, characters: int = 2000) -> Iterator[str]:
    """Pieces of at most about `characters`, cut at paragraphs, so that a single book cannot fill a batch."""
    for document in documents(path):
        piece: list[str] = []
        for paragraph in document.split("\n"):
            piece.append(paragraph)
            if sum(map(len, piece)) >= characters:
                yield "\n".join(piece)
                piece = []
        if piece:
            yield "\n".join(piece)


def train_tokenizer(corpus: Path, folder: Path, characters: int = 40_000_000) -> PreTrainedTokenizerFast:
    """A byte-level BPE of VOCAB tokens from the mixture (about `characters` characters of it)."""

    def sample() -> Iterator[str]:
        for name, share in MIXTURE.items():
            left = share * characters
            stride = max(1, int((corpus / f"{name}.txt.gz").stat().st_size * 2.7 / left))
            for index, passage in enumerate(passages(corpus / f"{name}.txt.gz")):
                if index % stride == 0:
                    left -= len(passage)
                    yield passage
                if left <= 0:
                    break

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(sample(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        model_max_length=512,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def encode_corpus(corpus: Path, tokenizer: PreTrainedTokenizerFast, tokens: int, heldout: int, file: Path) -> None:
    """Write `heldout` + `tokens` tokens to `file` (.npz of uint16 sequences of SEQUENCE + 1), mixed and shuffled.

    Passages, not sequences, are split between the two sides: no passage has tokens on both.
    """
    rng = np.random.default_rng(SEED)
    sides: dict[str, list[np.ndarray]] = {"heldout": [], "train": []}
    for name, share in MIXTURE.items():
        pieces = list(passages(corpus / f"{name}.txt.gz"))
        rng.shuffle(pieces)
        start = 0
        for side, wanted in (("heldout", heldout), ("train", tokens)):
            stream: list[int] = []
            while len(stream) < share * wanted and start < len(pieces):
                for encoding in tokenizer.backend_tokenizer.encode_batch(pieces[start : start + 256]):
                    stream += [*encoding.ids, 0]
                start += 256
            if len(stream) < 0.99 * share * wanted:
                print(f"{name}: only {len(stream):,} of {share * wanted:,.0f} tokens; it weighs less than planned")
            rows = min(len(stream), int(share * wanted)) // (SEQUENCE + 1)
            sides[side].append(np.array(stream[: rows * (SEQUENCE + 1)], np.uint16).reshape(rows, SEQUENCE + 1))
    packed = {side: np.concatenate(parts) for side, parts in sides.items()}
    np.savez(file, heldout=packed["heldout"], train=packed["train"][rng.permutation(len(packed["train"]))])


# ---- model and loss ---------------------------------------------------------------------------------------------


class ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of a tied head without the N x V logits in memory: each chunk's gradient is made at once.

    The softmax of a 4k vocabulary outweighs a nano model's blocks; a chunk that stays in the cache halves its time.
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: torch.Tensor, table_VD: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
        count, chunk = len(target_N), 512
        grad_hidden, grad_table = torch.empty_like(hidden_ND), torch.zeros_like(table_VD)
        loss = torch.zeros(())
        for start in range(0, count, chunk):
            rows = slice(start, start + chunk)
            logits = hidden_ND[rows] @ table_VD.T
            log_norm = logits.logsumexp(-1, keepdim=True)
            picked = target_N[rows, None]
            loss += (log_norm - logits.gather(1, picked)).sum()
            grad = logits.sub_(log_norm).exp_()
            grad.scatter_add_(1, picked, torch.full_like(log_norm, -1.0))
            grad /= count
            grad_hidden[rows] = grad @ table_VD
            grad_table += grad.T @ hidden_ND[rows]
        ctx.save_for_backward(grad_hidden, grad_table)
        return loss / count

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        grad_hidden, grad_table = ctx.saved_tensors
        return grads[0] * grad_hidden, grads[0] * grad_table, None


def build(size: Size) -> GPTNeoXForCausalLM:
    """A seeded GPT-NeoX of this size with tied embeddings, in fp32."""
    torch.manual_seed(SEED)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCAB,
            hidden_size=size.hidden,
            num_hidden_layers=size.blocks,
            num_attention_heads=size.heads,
            intermediate_size=4 * size.hidden,
            max_position_embeddings=512,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
            hidden_dropout=0.0,
            attention_dropout=0.0,
            tie_word_embeddings=True,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
        )
    )


def loss_of(model: GPTNeoXForCausalLM, rows_BT: np.ndarray) -> torch.Tensor:
    """Mean next-token loss of B sequences of SEQUENCE + 1 tokens."""
    tokens = torch.from_numpy(rows_BT.astype(np.int64))
    hidden_ND = model.gpt_neox(tokens[:, :-1]).last_hidden_state.flatten(0, 1)
    loss: torch.Tensor = ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_ND, model.get_input_embeddings().weight, tokens[:, 1:].flatten()
    )
    return loss


@torch.no_grad()
def heldout_loss(model: GPTNeoXForCausalLM, rows: np.ndarray) -> float:
    """Mean next-token loss in nats on the held-out sequences."""
    losses = [(loss_of(model, part).item(), len(part)) for part in np.array_split(rows, max(1, len(rows) // 64))]
    return sum(loss * count for loss, count in losses) / sum(count for _, count in losses)


# ---- training ---------------------------------------------------------------------------------------------------


def save_checkpoint(folder: Path, model: GPTNeoXForCausalLM, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Replace the checkpoint atomically: weights and both AdamW moments as one safetensors file."""
    names = [name for name, _ in model.named_parameters()]
    state = {f"model.{name}": value.detach() for name, value in model.named_parameters()}
    for index, values in optimizer.state_dict()["state"].items():
        for moment in ("exp_avg", "exp_avg_sq"):
            state[f"{moment}.{names[index]}"] = values[moment]
    partial = folder / "checkpoint.partial"
    save_file(state, partial, {"step": str(step)})
    partial.replace(folder / "checkpoint.safetensors")


def load_checkpoint(folder: Path, model: GPTNeoXForCausalLM, optimizer: torch.optim.Optimizer) -> int:
    """Restore `model` and `optimizer` in place; the step to go on from (0 without a checkpoint)."""
    file = folder / "checkpoint.safetensors"
    if not file.exists():
        return 0
    state = load_file(file)
    with safe_open(file, "pt") as handle:
        step = int(handle.metadata()["step"])
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(state[f"model.{name}"])
    optimizer.load_state_dict(
        {
            "state": {
                index: {
                    "step": torch.tensor(float(step)),
                    "exp_avg": state[f"exp_avg.{name}"],
                    "exp_avg_sq": state[f"exp_avg_sq.{name}"],
                }
                for index, (name, _) in enumerate(model.named_parameters())
            },
            "param_groups": optimizer.state_dict()["param_groups"],
        }
    )
    return step


def pretrain(name: str, data: Path, work: Path, batch: int, stop_after: int | None = None) -> None:
    """Train one size on every sequence of `data` once; returns at once when that has been done before."""
    size, folder = SIZES[name], work / name
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "done.json").exists():
        return
    arrays = np.load(data)
    train, heldout = arrays["train"], arrays["heldout"]
    steps = len(train) // batch
    model = build(size)
    ordered = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [value], "weight_decay": 0.1 if value.ndim == 2 else 0.0} for value in ordered],
        lr=size.rate,
        betas=(0.9, 0.95),
        eps=1e-8,
        foreach=False,
    )
    first = load_checkpoint(folder, model, optimizer)
    warmup = max(1, steps // 20)
    flop_token = 6 * (size.non_embedding + VOCAB * size.hidden)
    log = (folder / "log.jsonl").open("a", encoding="utf-8")
    started, seen = time.perf_counter(), 0
    for step in range(first, steps):
        rate = size.rate * min((step + 1) / warmup, 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(model, train[step * batch : (step + 1) * batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(ordered, 1.0)
        optimizer.step()
        seen += batch * SEQUENCE
        if (step + 1) % 50 == 0:
            speed = seen / (time.perf_counter() - started)
            tokens = (step + 1) * batch * SEQUENCE
            line = {"step": step + 1, "of": steps, "tokens": tokens, "flop": tokens * flop_token, "loss": loss.item()}
            log.write(json.dumps({**line, "rate": rate, "tokens_per_second": round(speed)}) + "\n")
            log.flush()
        if (step + 1) % 200 == 0:
            save_checkpoint(folder, model, optimizer, step + 1)
        if stop_after is not None and step + 1 - first >= stop_after:
            print(f"{name}: {seen / (time.perf_counter() - started):,.0f} tokens/s, loss {loss.item():.3f}", flush=True)
            return
    save_checkpoint(folder, model, optimizer, steps)
    loss_heldout = heldout_loss(model, heldout)
    tokens = steps * batch * SEQUENCE
    card = {
        "model": name,
        "non_embedding_params": size.non_embedding,
        "embedding_params": VOCAB * size.hidden,
        "train_tokens": tokens,
        "flop": tokens * flop_token,
        "heldout_loss": loss_heldout,
        "heldout_perplexity": math.exp(loss_heldout),
        "heldout_tokens": int(heldout[:, 1:].size),
        "batch_tokens": batch * SEQUENCE,
        "peak_rate": size.rate,
        "precision": "fp32",
        "torch": torch.__version__,
        "seed": SEED,
    }
    (folder / "done.json").write_text(json.dumps(card, indent=1) + "\n")
    print(json.dumps(card), flush=True)


def export(name: str, work: Path, out: Path) -> None:
    """Write OUT/NAME: fp16 safetensors, config and tokenizer."""
    model = build(SIZES[name])
    model.load_state_dict(
        {
            key.removeprefix("model."): value
            for key, value in load_file(work / name / "checkpoint.safetensors").items()
            if key.startswith("model.")
        },
        strict=False,
    )
    folder = out / name
    for parameter in model.parameters():
        parameter.data = parameter.data.half()
    model.config.dtype = torch.float16
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(work / "tokenizer" / file, folder / file)
    shutil.copy(work / name / "done.json", folder / "pretraining.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--work", type=Path, default=Path("build/nano"))
    parser.add_argument("--out", type=Path, help="export finished sizes here")
    parser.add_argument("--tokens", type=float, default=8e6)
    parser.add_argument("--heldout-tokens", type=float, default=2e5)
    parser.add_argument("--batch", type=int, default=32, help="sequences a step")
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--stop-after", type=int, help="steps, to measure speed")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.work.mkdir(parents=True, exist_ok=True)
    data = given.work / "tokens.npz"
    if not data.exists():
        tokenizer = train_tokenizer(given.corpus, given.work / "tokenizer")
        encode_corpus(given.corpus, tokenizer, int(given.tokens), int(given.heldout_tokens), data)
    for name in given.sizes:
        pretrain(name, data, given.work, given.batch, given.stop_after)
        if given.out is not None and given.stop_after is None:
            export(name, given.work, given.out)


if __name__ == "__main__":
    main()
