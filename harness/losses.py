"""Losses and sample weights of debiasing methods: pure functions of tensors.

Shapes: B samples in a batch, C classes, D features, N training samples. Nothing here waits for
the device unless it says so.
"""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

GceForm = Literal["lff", "true"]
Positives = Literal["partner_mined", "either_mined", "differ", "all"]
Sparsity = Literal["signed", "l1", "sigmoid"]


def gce(logits: Tensor, labels: Tensor, q: float = 0.7, form: GceForm = "lff") -> Tensor:
    """Generalised cross-entropy, which attends less to samples the model finds hard.

    Zhang & Sabuncu, NeurIPS 2018 (arXiv:1805.07836). With p the probability of the label:

    - ``"true"``: (1 - p^q) / q.
    - ``"lff"``: q · sg(p^q) · CE, sg = stop-gradient, as the code of LfF, DisEnt, BiasEnsemble and
      DCWP has it. Its gradient is exactly q times that of ``"true"``; its value differs.

    Args:
        logits: (B, C).
        labels: (B,) int.
        q: In (0, 1]; towards 0 it becomes cross-entropy, at 1 the mean absolute error.
        form: Which of the two forms.

    Returns:
        (B,) loss of each sample.
    """
    cross_entropy = F.cross_entropy(logits, labels, reduction="none")  # (B,)
    if form == "true":
        return -torch.expm1(-q * cross_entropy) / q
    return q * torch.exp(-q * cross_entropy.detach()) * cross_entropy


def confident_cross_entropy(logits: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Mean cross-entropy over the samples whose label has probability above `threshold`.

    DCWP's biased network for bias mining by ensemble (authors' code; threshold 0.05).
    Departures: exactly 0, with zero gradients, when no sample qualifies; the authors get NaN.

    Args:
        logits: (B, C).
        labels: (B,) int.
        threshold: Probability; a sample at exactly the threshold is left out.

    Returns:
        () loss.
    """
    cross_entropy = F.cross_entropy(logits, labels, reduction="none")  # (B,)
    confident = torch.exp(-cross_entropy.detach()) > threshold
    return torch.where(confident, cross_entropy, 0).sum() / confident.sum().clamp(min=1)


def debiased_contrastive(
    features: Tensor,
    labels: Tensor,
    conflicting: Tensor,
    temperature: float = 0.07,
    positives: Positives = "partner_mined",
) -> Tensor:
    """Supervised contrastive loss that pulls a class towards its mined bias-conflicting samples.

    DCWP (Park et al., CVPR 2023), in the form of Khosla et al., NeurIPS 2020 (arXiv:2004.11362)
    that sums over positives outside the logarithm; one view per sample. A positive of anchor i is
    another sample j of its class with, for b the mined flag,

    - ``"partner_mined"``: b_j, what the authors' code computes;
    - ``"either_mined"``: b_i or b_j, what it is meant to compute;
    - ``"differ"``: b_i ≠ b_j;
    - ``"all"``: no condition, i.e. plain supervised contrast.

    The loss is the mean over anchors that have a positive, each the mean over its positives; the
    denominator runs over every other sample of the batch.

    Departures: exactly 0, with zero gradients, when no anchor has a positive. The authors print
    NaN there, with the same gradients.

    Args:
        features: (B, D); normalised here.
        labels: (B,) int.
        conflicting: (B,) bool, the mined pseudo bias-conflicting samples.
        temperature: Divisor of the cosine similarities.
        positives: Which pairs of a class count.

    Returns:
        () loss.
    """
    unit = F.normalize(features, eps=1e-12)
    similarity = unit @ unit.T / temperature  # (B, B)
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    log_denominator = similarity.masked_fill(itself, -torch.inf).logsumexp(dim=1)  # (B,)

    positive = (labels[:, None] == labels) & ~itself & _related(conflicting, positives)  # (B, B)
    count = positive.sum(dim=1)  # (B,)
    mean_positive = (similarity * positive).sum(dim=1) / count.clamp(min=1)  # (B,)
    anchor = count > 0
    loss = torch.where(anchor, log_denominator - mean_positive, 0)  # (B,)
    return loss.sum() / anchor.sum().clamp(min=1)


def _related(conflicting: Tensor, positives: Positives) -> Tensor:
    """Return which (anchor, partner) pairs the mined flags admit, broadcastable to (B, B)."""
    partner = conflicting.bool()[None, :]  # (1, B)
    match positives:
        case "partner_mined":
            return partner
        case "either_mined":
            return partner.T | partner
        case "differ":
            return partner.T ^ partner
        case "all":
            return torch.ones_like(partner)


def sparsity(gates: Iterable[Tensor], form: Sparsity = "signed") -> Tensor:
    """Sum a penalty on gates over all layers, to be weighted and added to a loss.

    - ``"signed"``: Σ theta, as the authors of DCWP have it: a constant push towards -∞.
    - ``"l1"``: Σ |theta|, as their figure has it: it holds gates at the threshold 0.
    - ``"sigmoid"``: Σ sigmoid(theta), the expected number of weights kept by a logit gate.

    Args:
        gates: Theta of each layer, of any shapes, at least one.
        form: Which of the three.

    Returns:
        () penalty.
    """
    match form:
        case "signed":
            sums = [theta.sum() for theta in gates]
        case "l1":
            sums = [theta.abs().sum() for theta in gates]
        case "sigmoid":
            sums = [theta.sigmoid().sum() for theta in gates]
    return torch.stack(sums).sum()


class LossEma:
    """Exponential moving average of each training sample's loss (LfF, Nam et al., NeurIPS 2020).

    The first visit of a sample stores its loss itself: losses 2, 1, 4 at decay 0.7 average to
    2, 1.7, 2.39. Samples not yet visited stand at 0.

    Attributes:
        values: (N,) current averages.
    """

    def __init__(self, labels: Tensor, decay: float = 0.7) -> None:
        """Start with no sample visited.

        Args:
            labels: (N,) int labels of all training samples, on the device of the losses.
            decay: Weight of the past, in [0, 1). The authors' scripts use 0.7.
        """
        self.labels = labels
        self.decay = decay
        self.values = torch.zeros(len(labels), device=labels.device)
        self._past_weight = torch.zeros_like(self.values)  # 0 until the first visit, then `decay`
        self._no_class_max = self.values.new_zeros(int(labels.max()) + 1)

    def update(self, indices: Tensor, losses: Tensor) -> None:
        """Fold in the current `losses` (B,) of the samples `indices` (B,), which are distinct."""
        past = self._past_weight[indices]
        self.values[indices] = past * self.values[indices] + (1 - past) * losses.detach()
        self._past_weight[indices] = self.decay

    def class_max(self) -> Tensor:
        """Return (C,) the largest average of each class, 0 where no sample was visited."""
        return self._no_class_max.scatter_reduce(0, self.labels, self.values, "amax")


def relative_difficulty(
    biased: LossEma, debiased: LossEma, indices: Tensor, eps: float = 0.0
) -> Tensor:
    """Weigh samples by how much harder they are for the biased network than for the debiased one.

    LfF's relative difficulty on moving averages e, each scaled by the maximum of the sample's
    class: W = e_b / (e_b + e_d + 1e-8). Call it after both averages were updated. It waits for
    the device once, to guard against a division by zero.

    Args:
        biased: Averages of the biased network.
        debiased: Averages of the debiased network.
        indices: (B,) int, the samples wanted.
        eps: Added to the class maxima of `biased`; BiasEnsemble uses 1e-8, LfF and DisEnt 0.

    Returns:
        (B,) weights in [0, 1], without gradient.

    Raises:
        ValueError: If every loss of a class is exactly 0. The authors' weights are NaN there.
    """
    classes = biased.labels[indices]
    biased_max = biased.class_max()[classes] + eps  # (B,)
    debiased_max = debiased.class_max()[classes]  # (B,)
    if not torch.minimum(biased_max, debiased_max).gt(0).all():
        raise ValueError(
            "relative difficulty needs a positive loss in each class of the batch, but every loss "
            "of a class is 0: a network fits it perfectly. Lower the learning rate or stop earlier."
        )
    e_biased = biased.values[indices] / biased_max
    e_debiased = debiased.values[indices] / debiased_max
    return e_biased / (e_biased + e_debiased + 1e-8)


def group_ids(labels: Tensor, attributes: Tensor) -> Tensor:
    """Number the groups, cells of label and bias attribute, that have samples.

    Args:
        labels: (N,) int.
        attributes: (N,) int.

    Returns:
        (N,) int64 in 0 … G-1, ordered by label and then by attribute; no number is unused.
    """
    cells = labels * (attributes.max() + 1) + attributes
    numbers: Tensor = cells.unique(return_inverse=True)[1]
    return numbers


def balanced_weights(groups: Tensor) -> Tensor:
    """Weigh samples so that each of their groups is drawn equally often: N / size of the group.

    Args:
        groups: (N,) int, group or class of each sample.

    Returns:
        (N,) sampling weights.
    """
    return len(groups) / torch.bincount(groups)[groups]
