"""What a benchmark needs, made small for a machine without a network: a model as it is quantised, pairs without texts.

model/   config and tokenizer, and compact.safetensors: 4 and 8 bit blocks of a GGUF as they stand, or fp16
pairs.npz.xz   token ids, text hashes and split of a `PairData`; no text
"""

from __future__ import annotations

import io
import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer

from isoembed.core import InputError
from isoembed.data import store as stores
from isoembed.data.dataset import PairData
from isoembed.encoder.load import load_model
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.recipe import DataStats

COMPACT = "compact.safetensors"
#: weights of a block of a GGUF, and its bytes: a scale, for Q4_1 an offset too, both fp16, and the whole numbers
BLOCK = 32
BLOCK_BYTES = {"Q4_1": 20, "Q8_0": 34}
#: parts of a GGUF's tensor names -> those of transformers' Llama
NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


# ---- a model ----------------------------------------------------------------------------------------------------


def compact_model(source: Path, folder: Path) -> None:
    """Write the model at `source`, a Llama's GGUF or a folder of transformers, small into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        model: Any = load_model(str(source))
        load_tokenizer(str(source)).save_pretrained(folder)
        model.config.save_pretrained(folder)
        values = {name: value.half().contiguous() for name, value in model.state_dict().items()}
        save_file(values, folder / COMPACT)
        return
    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    config = AutoConfig.from_pretrained(**place)
    if config.model_type != "llama":
        raise InputError(f"A GGUF must hold a Llama to travel; {source} holds {config.model_type}. Give a folder.")
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
    config.architectures = ["LlamaModel"]
    config.save_pretrained(folder)
    tensors, kinds = _of_gguf(source, config.num_attention_heads, config.num_key_value_heads)
    save_file(tensors, folder / COMPACT, {"kinds": json.dumps(kinds)})


def _of_gguf(file: Path, heads: int, key_heads: int) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors under transformers' names, quantised ones as rows of bytes, and how those are quantised."""
    from gguf import GGUFReader

    tensors, kinds = {}, {}
    for found in GGUFReader(str(file)).tensors:
        kind, block, _, part = _name(found.name)
        name = f"layers.{block}.{part}.weight" if block else f"{part}.weight"
        rows = np.array(found.data)
        if kind in ("attn_q", "attn_k"):  # llama.cpp keeps the two halves of a head's rotation interleaved
            of_head = len(rows) // (heads if kind == "attn_q" else key_heads)
            rows = rows.reshape(-1, of_head // 2, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)
        quantised = found.tensor_type.name
        if quantised in BLOCK_BYTES:
            kinds[name] = quantised
        elif quantised not in ("F32", "F16"):
            raise InputError(
                f"Weights must be {', '.join(BLOCK_BYTES)}, F16 or F32 to travel; `{name}` is {quantised}."
            )
        tensors[name] = torch.from_numpy(np.ascontiguousarray(rows))
    return tensors, kinds


def _name(name: str) -> tuple[str, str, str, str]:
    """(kind, block or "", "", part in transformers' words) of a GGUF's tensor."""
    parts = name.removesuffix(".weight").split(".")
    kind, block = parts[-1], parts[1] if parts[0] == "blk" else ""
    if kind not in NAMES:
        raise InputError(f"A GGUF's tensors must be a Llama's to travel; it holds {name!r}. Give a folder.")
    return kind, block, "", NAMES[kind]


def unquantised(rows: torch.Tensor, kind: str) -> torch.Tensor:
    """Rows of bytes as fp32 weights: scale x whole number (+ offset), in ggml's layout of these kinds."""
    blocks = rows.numpy().reshape(len(rows), -1, BLOCK_BYTES[kind])
    scale = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    if kind == "Q8_0":
        weights = scale * blocks[..., 2:].copy().view(np.int8).astype(np.float32)
    else:
        offset = blocks[..., 2:4].copy().view(np.float16).astype(np.float32)
        packed = blocks[..., 4:]
        weights = scale * np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.float32) + offset
    return torch.from_numpy(weights.reshape(len(rows), -1))


def expand_model(folder: Path, out: Path) -> None:
    """The model that `compact_model` wrote, as a folder of transformers in fp32."""
    out.mkdir(parents=True, exist_ok=True)
    values = {}
    with safe_open(folder / COMPACT, "pt") as file:
        kinds = json.loads((file.metadata() or {}).get("kinds", "{}"))
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            value = file.get_tensor(name)
            values[name] = unquantised(value, kinds[name]) if name in kinds else value.float()
    for each in folder.iterdir():
        if each.name != COMPACT:
            shutil.copy(each, out / each.name)
    save_file(values, out / "model.safetensors", {"format": "pt"})


# ---- pairs ------------------------------------------------------------------------------------------------------


def compact_pairs(data: PairData, source: str, file: Path) -> None:
    """Write ids, hashes and split of `data` to `file`, named `source` from then on; its texts stay behind.

    Rows lie in the order of training, the held-out ones behind them.  Held-out texts keep their hashes, by which losses
    are known to compare; training texts are numbered, which compresses, and tells equal ones as well.
    """
    store, rows = data.store, np.concatenate([data.train, data.heldout])
    arrays: dict[str, Any] = {"counts": np.array([len(data.train), len(data.heldout)])}
    for side in ("query", "positive"):
        ids = store.ids(side, rows)
        arrays[f"{side}_ids"] = np.concatenate(ids)
        arrays[f"{side}_lengths"] = np.array([len(text) for text in ids], np.uint16)
        hashes = store.hashes(side, rows)
        first, number = np.unique(hashes[: len(data.train)], return_index=True, return_inverse=True)[1:]
        arrays[f"{side}_text"] = first[number].astype(np.uint32)
        arrays[f"{side}_hash"] = hashes[len(data.train) :]
    facts = store.facts.model_copy(update={"source": source, "groups": (None,), "skipped": {}, "pairs": len(rows)})
    stats = data.stats.model_copy(update={"source": source})
    arrays["facts"], arrays["stats"] = (np.array(value.model_dump_json()) for value in (facts, stats))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    file.write_bytes(lzma.compress(buffer.getvalue(), preset=6))


def written_store(folder: Path, facts: stores.StoreFacts, columns: dict[str, pa.Array]) -> stores.TokenStore:
    """The store at `folder` of pairs that are tokenised already, written where it is not there: `columns` as the files
    name them, those that are not given empty or 0 (of texts nothing but ids need be there)."""
    id_type = columns["query_ids"].type.value_type

    def make(partial: Path) -> None:
        for name, schema, size in (
            ("pairs.arrow", stores._pairs_schema(id_type), stores.PAIRS_ROWS),
            ("numbers.arrow", stores._numbers_schema(), stores.NUMBERS_ROWS),
        ):
            empty = {field.name: _nothing(field.type, facts.pairs) for field in schema if field.name not in columns}
            batch = pa.RecordBatch.from_pydict({**columns, **empty}, schema)
            with pa.OSFile(str(partial / name), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                for start in range(0, facts.pairs, size):
                    writer.write_batch(batch.slice(start, size))
        (partial / stores.FACTS).write_text(facts.sealed(partial).model_dump_json(indent=1) + "\n", encoding="utf-8")

    return stores.TokenStore.kept(folder, make)


def _nothing(kind: pa.DataType, rows: int) -> pa.Array:
    """`rows` times an empty list, an empty text or 0."""
    none: Any = [] if pa.types.is_list(kind) else "" if pa.types.is_string(kind) else 0
    return pa.array([none] * rows, kind)


def expand_pairs(file: Path, folder: Path) -> PairData:
    """The pairs that `compact_pairs` wrote, in a store under `folder` (or found there)."""
    with np.load(io.BytesIO(lzma.decompress(file.read_bytes()))) as found:
        arrays = {name: found[name] for name in found.files}
    facts = stores.StoreFacts.model_validate_json(str(arrays["facts"]))
    train, heldout = arrays["counts"].tolist()
    rows: dict[str, pa.Array] = {}
    for side in ("query", "positive"):
        bounds = np.concatenate([[0], np.cumsum(arrays[f"{side}_lengths"], dtype=np.int64)]).astype(np.int32)
        rows[f"{side}_ids"] = pa.ListArray.from_arrays(pa.array(bounds), pa.array(arrays[f"{side}_ids"]))
        rows[f"{side}_length"] = pa.array(arrays[f"{side}_lengths"].astype(np.uint32))
        rows[f"{side}_hash"] = pa.array(np.concatenate([arrays[f"{side}_text"], arrays[f"{side}_hash"]]))
    kept = written_store(folder, facts, rows)
    places = np.arange(train + heldout)
    stats = DataStats.model_validate_json(str(arrays["stats"]))
    return PairData(kept, places[:train], kept, places[train:], stats, ())
