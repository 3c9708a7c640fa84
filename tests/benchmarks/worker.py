"""One trial in a process that has loaded what a worker of a sweep has loaded."""

from __future__ import annotations

from pathlib import Path

import harness.sweep  # noqa: F401  # Ray
from harness.study import Store, Study, Work
from harness.trial import run_work


def run_one(study: Study, store: Store, root: Path) -> None:
    """Runs the study's base setting.

    Raises:
        RuntimeError: It failed.
    """
    work = Work(study.id, "train", 0, 0, study.base)
    record = run_work(study, work, store, root, lambda record: None, lambda *progress: None)
    if record.status != "finished":
        raise RuntimeError(record.error)
