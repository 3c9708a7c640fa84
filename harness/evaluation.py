"""Group tables: correct and total per (label, attribute) cell, from which every metric follows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from harness.training_set import GroupedSplit, Transform


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
        cells = self._ratio(self.correct, self.total)
        aligned, conflicting = _mean(cells[self.aligned]), _mean(cells[~self.aligned])
        return {
            "accuracy": float(self._ratio(self.correct.sum(), self.total.sum())),
            "group_mean_accuracy": _mean(cells),
            "aligned_accuracy": aligned,
            "conflicting_accuracy": conflicting,
            "worst_group_accuracy": _worst(cells),
            "worst_class_accuracy": _worst(self._ratio(self.correct.sum(1), self.total.sum(1))),
            "ac_score": _harmonic_mean(aligned, conflicting),
        }

    @staticmethod
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


@torch.inference_mode()
def predictions(model: nn.Module, split: GroupedSplit, transform: Transform) -> Tensor:
    """Predicted class of every sample, (N,) int64, in evaluation mode; modes are restored.

    Raises:
        FloatingPointError: A logit is not finite.
    """
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]  # some may be frozen
    model.eval()
    predicted, finite = [], torch.ones((), dtype=torch.bool, device=device)
    for images in split.images.split(1000):
        logits = model(transform(images.to(device, non_blocking=True), augment=False))
        finite &= logits.isfinite().all()
        predicted.append(logits.argmax(1))
    for module, training in modes:
        module.training = training
    if not finite:
        raise FloatingPointError("the classifier's logits are not finite")
    return torch.cat(predicted)


def evaluate(
    model: nn.Module, split: GroupedSplit, transform: Transform, aligned: Tensor
) -> Evaluation:
    """Counts a model's correct predictions per group of a split."""
    classes, attributes = aligned.shape
    group = split.labels * attributes + split.attributes  # (N,)
    hit = predictions(model, split, transform).to(split.labels.device) == split.labels
    size = classes * attributes
    return Evaluation(
        torch.bincount(group[hit], minlength=size).view(classes, attributes).numpy(),
        torch.bincount(group, minlength=size).view(classes, attributes).numpy(),
        aligned.numpy(),
    )
