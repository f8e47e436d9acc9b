"""isoembed: name a compute budget; get the best recipe for a text embedding model, trained and proven.

    found = isoembed.recommend("1.5e12", family="nano")
    record = isoembed.train(found, pairs=[("a question", "its answer"), ...], out="model")

Deciding needs no torch; the names that do are imported when they are first used.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from isoembed.budget import Budget
from isoembed.core import InputError, not_installed
from isoembed.families import NANO, PYTHIA, Family, ModelSpec
from isoembed.fitting.io.law_file import LawFile, LawSet
from isoembed.methods import Bias, Freeze, Full, LoRA, LoRATop, Method, Norms, QLoRA
from isoembed.options import Options, Prompts, Teacher
from isoembed.recipe import DataStats, EarlyStopping, PartialSetup, Recipe, Setup, solve
from isoembed.recommendation.constraints import Constraints
from isoembed.recommendation.recommend import Request, recommend
from isoembed.recommendation.result import Recommendation
from isoembed.records import Ledger, RunRecord
from isoembed.workflows.models import family_named

if TYPE_CHECKING:
    from isoembed.data.dataset import PairData, prepare
    from isoembed.encoder.embedder import Embedder
    from isoembed.encoder.exported import load_exported
    from isoembed.encoder.teacher import teacher
    from isoembed.fitting.source import fit
    from isoembed.report.figures import Figure, figure
    from isoembed.training.execution import Execution
    from isoembed.training.loop import run
    from isoembed.workflows.certify import certify
    from isoembed.workflows.job import DataOptions, Job, evaluate_job, plan_extension, plan_job, train, train_job
    from isoembed.workflows.merge import merge
    from isoembed.workflows.mine import mine
    from isoembed.workflows.push import push
    from isoembed.workflows.trim import trim_vocabulary

    __version__: str

#: names that import torch, scipy or plotly, and where they live
_LAZY = {
    "Figure": "isoembed.report.figures",
    "figure": "isoembed.report.figures",
    "fit": "isoembed.fitting.source",
    "train": "isoembed.workflows.job",
    "PairData": "isoembed.data.dataset",
    "prepare": "isoembed.data.dataset",
    "Embedder": "isoembed.encoder.embedder",
    "load_exported": "isoembed.encoder.exported",
    "Execution": "isoembed.training.execution",
    "run": "isoembed.training.loop",
    "certify": "isoembed.workflows.certify",
    "teacher": "isoembed.encoder.teacher",
    "DataOptions": "isoembed.workflows.job",
    "Job": "isoembed.workflows.job",
    "evaluate_job": "isoembed.workflows.job",
    "plan_extension": "isoembed.workflows.job",
    "plan_job": "isoembed.workflows.job",
    "train_job": "isoembed.workflows.job",
    "merge": "isoembed.workflows.merge",
    "mine": "isoembed.workflows.mine",
    "push": "isoembed.workflows.push",
    "trim_vocabulary": "isoembed.workflows.trim",
}

__all__ = [
    "NANO",
    "PYTHIA",
    "Bias",
    "Budget",
    "Constraints",
    "DataOptions",
    "DataStats",
    "EarlyStopping",
    "Embedder",
    "Execution",
    "Family",
    "Figure",
    "Freeze",
    "Full",
    "InputError",
    "Job",
    "LawFile",
    "LawSet",
    "Ledger",
    "LoRA",
    "LoRATop",
    "Method",
    "ModelSpec",
    "Norms",
    "Options",
    "PairData",
    "PartialSetup",
    "Prompts",
    "QLoRA",
    "Recipe",
    "Recommendation",
    "Request",
    "RunRecord",
    "Setup",
    "Teacher",
    "certify",
    "evaluate_job",
    "family_named",
    "figure",
    "fit",
    "load_exported",
    "merge",
    "mine",
    "plan_extension",
    "plan_job",
    "prepare",
    "push",
    "recommend",
    "run",
    "solve",
    "teacher",
    "train",
    "train_job",
    "trim_vocabulary",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("isoembed")
    if name not in _LAZY:
        raise AttributeError(f"module 'isoembed' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        raise not_installed(error.name or "") or error from None


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
