"""isoembed: name a compute budget; get the best recipe for a text embedding model, trained and proven.

    budget = isoembed.Budget.parse("1.5e12")
    job = isoembed.plan_job(budget, isoembed.NANO, isoembed.DataOptions("pairs.jsonl"), cache=Path("tokens"))
    record = isoembed.train_job(job, Path("out"), execution=isoembed.Execution())

Deciding needs no torch; the names that do are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from isoembed.budget import Budget
from isoembed.core import InputError
from isoembed.families import NANO, PYTHIA, Family, ModelSpec, family_named
from isoembed.fitting.io.law_file import LawFile, LawSet
from isoembed.methods import Bias, DoRA, Freeze, Full, LoRA, LoRATop, Method, Norms, QLoRA, RsLoRA
from isoembed.recipe import DataStats, Options, Prompts, Recipe, solve
from isoembed.recommendation.constraints import Constraints
from isoembed.recommendation.recommend import recommend
from isoembed.recommendation.result import Recommendation
from isoembed.records import RunRecord

if TYPE_CHECKING:
    from isoembed.data.dataset import PairData, prepare
    from isoembed.encoder.export import load_exported
    from isoembed.training.loop import Execution, run
    from isoembed.workflows.job import DataOptions, Job, evaluate_job, plan_job, train_job
    from isoembed.workflows.mine import mine

#: names that import torch, and where they live
_LAZY = {
    "PairData": "isoembed.data.dataset",
    "prepare": "isoembed.data.dataset",
    "load_exported": "isoembed.encoder.export",
    "Execution": "isoembed.training.loop",
    "run": "isoembed.training.loop",
    "DataOptions": "isoembed.workflows.job",
    "Job": "isoembed.workflows.job",
    "evaluate_job": "isoembed.workflows.job",
    "plan_job": "isoembed.workflows.job",
    "train_job": "isoembed.workflows.job",
    "mine": "isoembed.workflows.mine",
}

__all__ = [
    "NANO",
    "PYTHIA",
    "Bias",
    "Budget",
    "Constraints",
    "DataOptions",
    "DataStats",
    "DoRA",
    "Execution",
    "Family",
    "Freeze",
    "Full",
    "InputError",
    "Job",
    "LawFile",
    "LawSet",
    "LoRA",
    "LoRATop",
    "Method",
    "ModelSpec",
    "Norms",
    "Options",
    "PairData",
    "Prompts",
    "QLoRA",
    "Recipe",
    "Recommendation",
    "RsLoRA",
    "RunRecord",
    "evaluate_job",
    "family_named",
    "load_exported",
    "mine",
    "plan_job",
    "prepare",
    "recommend",
    "run",
    "solve",
    "train_job",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'isoembed' has no attribute {name!r}")
