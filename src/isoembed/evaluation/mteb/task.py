"""A task of the library beside our own: any embedding system scored through the library's classes, nothing kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from isoembed.core import InputError
from isoembed.evaluation.mteb import library
from isoembed.evaluation.notes import ScoreNote
from isoembed.evaluation.readers import lines, require
from isoembed.evaluation.systems import EmbeddingSystem, System

#: kinds of local tasks that the library scores and we do not
LIBRARY_KINDS = ("reranking", "pairclassification", "classification", "clustering")


@dataclass(frozen=True)
class LibraryTask:
    """Local files of one of LIBRARY_KINDS, laid out as `evaluation.mteb.local` says."""

    kind: str
    folder: Path
    facts: ClassVar[tuple[ScoreNote, ...]] = ()

    @classmethod
    def from_folder(cls, kind: str, folder: Path) -> LibraryTask:
        """The task at `folder`; raises InputError where a file of it, or the library, is missing."""
        if not folder.is_dir():
            raise InputError(f"The {kind} task must be a folder; {folder} is none. Check the path.")
        library.require()
        require(folder, "test.jsonl")
        return cls(kind, folder)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def counts(self) -> dict[str, int]:
        return {"rows": sum(1 for _ in lines(require(self.folder, "test.jsonl")))}

    def score(self, system: System) -> dict[str, float]:
        """The library's main score of the kind, a fraction; empty for a system without embeddings, and where the score
        is undefined."""
        if not isinstance(system, EmbeddingSystem):
            return {}
        from isoembed.evaluation.mteb.benchmark import run_tasks
        from isoembed.evaluation.mteb.local import local_task
        from isoembed.evaluation.mteb.model import SystemEncoder

        (found,) = run_tasks(SystemEncoder(system), [local_task(self.kind, self.folder)], None)
        return {} if found.score is None else {found.metric: found.score}
