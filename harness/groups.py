"""Group tables: correct and total per (label, attribute) cell, from which every metric follows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Evaluation:
    """Predictions on one split, counted per group.

    Attributes:
        correct: (num_classes, num_attributes) int64.
        total: (num_classes, num_attributes) int64; a cell may be empty.
        aligned: (num_classes, num_attributes) bool, the bias-aligned cells.
    """

    correct: np.ndarray
    total: np.ndarray
    aligned: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Every metric of the table, in [0, 1]; NaN where it has no sample to speak of."""
        return {name: self.metric(name) for name in METRICS}

    def metric(self, name: str) -> float:
        """One of METRICS, in [0, 1]; NaN where it has no sample to speak of."""
        return METRICS[name](self)

    @cached_property
    def accuracies(self) -> np.ndarray:
        """Accuracy per cell, (num_classes, num_attributes); NaN for an empty one."""
        return _ratio(self.correct, self.total)


def _ratio(hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.divide(hits, counts, dtype=float))


def _mean(cells: np.ndarray) -> float:
    """Unweighted mean over non-empty cells, as LfF, DisEnt and DCWP report group accuracies."""
    filled = cells[~np.isnan(cells)]
    return float(filled.mean()) if filled.size else math.nan


def _worst(ratios: np.ndarray) -> float:
    filled = ratios[~np.isnan(ratios)]
    return float(filled.min()) if filled.size else math.nan


def _harmonic_mean(aligned: float, conflicting: float) -> float:
    """Align-conflict score 2AC / (A + C) of arXiv 2206.03680."""
    both = aligned + conflicting
    return 2 * aligned * conflicting / both if both else 0.0 if both == 0 else math.nan


def _ac_score(table: Evaluation) -> float:
    return _harmonic_mean(table.metric("aligned_accuracy"), table.metric("conflicting_accuracy"))


METRICS: dict[str, Callable[[Evaluation], float]] = {
    "accuracy": lambda t: float(_ratio(t.correct.sum(), t.total.sum())),
    "group_mean_accuracy": lambda t: _mean(t.accuracies),
    "aligned_accuracy": lambda t: _mean(t.accuracies[t.aligned]),
    "conflicting_accuracy": lambda t: _mean(t.accuracies[~t.aligned]),
    "worst_group_accuracy": lambda t: _worst(t.accuracies),
    "worst_class_accuracy": lambda t: _worst(_ratio(t.correct.sum(1), t.total.sum(1))),
    "ac_score": _ac_score,
}
"""Metric name -> how a group table gives it."""
