"""Options that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isoembed.budget import DEVICES
from isoembed.families import FAMILIES
from isoembed.methods import names

BudgetText = Annotated[str | None, typer.Option("--budget", help="training budget in FLOP, as 1.5e18")]
DeviceName = Annotated[
    str | None, typer.Option("--device", help=f"one of {', '.join(device.name for device in DEVICES)}")
]
Count = Annotated[int, typer.Option(min=1, help="number of devices")]
Hours = Annotated[float | None, typer.Option(help="budget as hours on --count devices")]
Utilisation = Annotated[float | None, typer.Option(help="share of peak that your training reaches")]
Dollars = Annotated[float | None, typer.Option(help="budget as money")]
DollarsPerHour = Annotated[float | None, typer.Option(help="price of one device for an hour")]
FamilyName = Annotated[str | None, typer.Option("--family", help=f"{', '.join(f.name for f in FAMILIES)}")]
ModelName = Annotated[str | None, typer.Option("--model", help="a model of the family, a hub id or a folder")]
MethodName = Annotated[str | None, typer.Option("--method", help=f"{', '.join(names())}; default: the rule's")]
Fraction = Annotated[float | None, typer.Option(help="freeze, lora-top: active share of the blocks")]
Rank = Annotated[int | None, typer.Option(help="lora and its variants: rank")]
Alpha = Annotated[float | None, typer.Option(help="lora and its variants: alpha")]
BatchPairs = Annotated[int | None, typer.Option(help="pairs a batch; default: the family's")]
ContextTokens = Annotated[int | None, typer.Option(max=2**31 - 1, help="longest query or positive in tokens")]
LearningRate = Annotated[float | None, typer.Option(help="peak learning rate; default: the rule's")]
Seed = Annotated[int, typer.Option(help="seed of data order and initialisation")]
PoolingChoice = Annotated[
    str, typer.Option("--pooling", help="readout: mean, weighted-mean, last (an end-of-text token), first or max")
]
MaskMargin = Annotated[
    float | None, typer.Option(help="leave candidates out that are this much more similar (cosine) than the positive")
]
QueryPrompt = Annotated[str, typer.Option(help="put in front of every query")]
PositivePrompt = Annotated[str, typer.Option(help="put in front of every positive, hard negative and document")]
PoolPrompt = Annotated[bool, typer.Option("--pool-prompt/--no-pool-prompt", help="pool over a prompt's tokens too")]
Matryoshka = Annotated[
    str | None, typer.Option(help="first dimensions that must do alone, as 256,128, beside the whole embedding")
]
Bidirectional = Annotated[
    bool, typer.Option("--bidirectional", help="every token attends to the whole text, where the architecture can")
]
ResizeEmbeddings = Annotated[
    bool,
    typer.Option("--resize-embeddings", help="grow the token table so that every token of the tokenizer has a row"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
DataSpec = Annotated[
    str, typer.Option("--data", help="docstrings, a .jsonl/.csv/.parquet file, hub:ORG/NAME, or a mixture a:3,b:1")
]
QueryKey = Annotated[str | None, typer.Option(help="name of the query field")]
PositiveKey = Annotated[str | None, typer.Option(help="name of the positive field")]
NegativeKey = Annotated[str | None, typer.Option(help="name of the field of hard negatives, a text or a list of them")]
Negatives = Annotated[int | None, typer.Option(help="hard negatives of a row to use at most; 0: none [default: all]")]
HeldoutSpec = Annotated[str | None, typer.Option("--heldout", help="held-out pairs; default: split off the data")]
MaxRowBytes = Annotated[int, typer.Option(min=1, max=1 << 30, help="longest row of the data, in bytes")]
OnBadRows = Annotated[str, typer.Option(help="error or skip")]
Cache = Annotated[Path | None, typer.Option(help="folder for tokenised data, reused between runs [default: in --out]")]
Out = Annotated[Path, typer.Option("--out", help="folder for the model, its record and checkpoints")]
Resume = Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint in --out")]
MemoryText = Annotated[
    str | None, typer.Option("--memory", help="peak of the process (GPU: there), as 4GiB; default: half of free")
]
Checkpointing = Annotated[bool, typer.Option("--gradient-checkpointing", help="recompute activations inside the model")]
PrecisionName = Annotated[
    str,
    typer.Option(
        "--precision", help="of the products: fp32, bf16 (sums and weights stay fp32), or auto: bf16 on a GPU"
    ),
]
Compile = Annotated[bool, typer.Option("--compile", help="torch.compile the blocks: slow at first, then faster")]
Shard = Annotated[bool, typer.Option("--shard", help="under torchrun: cut the parameters over the processes (FSDP2)")]
CheckpointSeconds = Annotated[float, typer.Option(min=0, help="seconds between checkpoints")]
Tracker = Annotated[list[str] | None, typer.Option(help="tensorboard, trackio or wandb; may be repeated")]
KeepAdapter = Annotated[bool, typer.Option(help="lora and its variants: keep the adapter beside the merged model")]
LawPath = Annotated[Path | None, typer.Option("--law", help="law.json of `isoembed fit`; default: the family's own")]
OtherSettings = Annotated[
    bool, typer.Option("--other-settings", help="use the law although batch or context differ from its runs'")
]
MaxParams = Annotated[float | None, typer.Option(help="largest model, in non-embedding parameters")]
MethodNames = Annotated[str | None, typer.Option("--methods", help="methods allowed, as full,lora")]
ServingTokens = Annotated[
    float, typer.Option(help="tokens the model will embed in its life; the budget pays for them too")
]
PilotShare = Annotated[
    str | None,
    typer.Option("--pilot", help="spend this share of the budget, as 5%, on pilot runs and choose by what they show"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be done and stop")]
