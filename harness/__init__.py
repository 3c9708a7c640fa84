"""What the author of a debiasing method needs, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.method import Method as Method
    from harness.run import Run as Run
    from harness.space import tunable as tunable
    from harness.training_set import TrainingSet as TrainingSet

__all__ = ["Method", "Run", "TrainingSet", "tunable"]

_HOME = {
    "Method": "harness.method",
    "Run": "harness.run",
    "TrainingSet": "harness.training_set",
    "tunable": "harness.space",
}


def __getattr__(name: str) -> Any:
    """Imports on first use, so that the command line answers without loading torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
