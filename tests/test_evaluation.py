"""Evaluation: hand-counted tables, and a model left as it was found."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.evaluation import count_parameters, evaluate, predictions
from harness.gates import add_gates, gates
from harness.groups import Evaluation
from harness.selection import DEFAULT_RULE, RULES
from harness.training_set import BiasedDataset, GroupedSplit, Transform

EYE = np.eye(2, dtype=bool)
PLAIN = Transform()


def table(correct: list[list[int]], total: list[list[int]]) -> dict[str, float]:
    return Evaluation(np.array(correct), np.array(total), EYE).metrics()


def test_metrics_of_an_unequal_table() -> None:
    """Cells 90/100, 2/10, 15/20, 10/10."""
    metrics = table([[90, 2], [15, 10]], [[100, 10], [20, 10]])
    assert metrics == {
        "accuracy": 117 / 140,
        "group_mean_accuracy": pytest.approx((0.9 + 0.2 + 0.75 + 1) / 4),
        "aligned_accuracy": pytest.approx((0.9 + 1) / 2),
        "conflicting_accuracy": pytest.approx((0.2 + 0.75) / 2),
        "worst_group_accuracy": 0.2,
        "worst_class_accuracy": 25 / 30,  # of 92/110 and 25/30
        "ac_score": pytest.approx(2 * 0.95 * 0.475 / (0.95 + 0.475)),
    }
    assert metrics["accuracy"] != pytest.approx(metrics["group_mean_accuracy"])


def test_empty_cells_are_left_out() -> None:
    metrics = table([[90, 0], [15, 10]], [[100, 0], [20, 10]])
    assert metrics["group_mean_accuracy"] == pytest.approx((0.9 + 0.75 + 1) / 3)
    assert metrics["conflicting_accuracy"] == 0.75
    assert metrics["worst_group_accuracy"] == 0.75
    assert metrics["accuracy"] == 115 / 130


def test_metrics_without_a_sample_are_not_a_number() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = table([[9, 0], [0, 5]], [[10, 0], [0, 10]])
        empty = table([[0, 0], [0, 0]], [[0, 0], [0, 0]])
    assert math.isnan(metrics["conflicting_accuracy"]) and math.isnan(metrics["ac_score"])
    assert metrics["aligned_accuracy"] == pytest.approx(0.7)
    assert metrics["worst_class_accuracy"] == 0.5
    assert all(math.isnan(value) for value in empty.values())


def test_ac_score_of_nothing_right_is_zero() -> None:
    assert table([[0, 0], [0, 0]], [[10, 5], [5, 10]])["ac_score"] == 0.0
    assert table([[10, 0], [0, 10]], [[10, 5], [5, 10]])["ac_score"] == 0.0


def test_aligned_cells_need_not_be_the_diagonal() -> None:
    aligned = np.array([[False, True], [True, False]])
    metrics = Evaluation(np.array([[1, 4], [3, 2]]), np.full((2, 2), 4), aligned).metrics()
    assert metrics["aligned_accuracy"] == (1 + 0.75) / 2
    assert metrics["conflicting_accuracy"] == (0.25 + 0.5) / 2


def test_every_rule_reads_a_metric_that_exists_and_never_the_test_split() -> None:
    metrics = table([[1, 1], [1, 1]], [[2, 2], [2, 2]])
    assert DEFAULT_RULE in RULES
    for name, rule in RULES.items():
        assert rule.name == name
        assert rule.metric in metrics
        assert rule.split in ("valid_biased", "valid_unbiased")
        needs_groups = rule.metric not in ("accuracy", "worst_class_accuracy")
        assert rule.needs_bias_labels is (needs_groups or rule.split == "valid_unbiased")


class ByPixel(nn.Module):
    """Predicts the value of the first pixel, divided by 255 as every image is."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(255.0))
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        said = (images[:, 0, 0, 0] * self.scale).round().long()
        return nn.functional.one_hot(said, self.classes).float()


def by_pixel(said: list[int], labels: list[int], attributes: list[int]) -> GroupedSplit:
    images = torch.zeros(len(said), 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(said, dtype=torch.uint8)
    return GroupedSplit(images, torch.tensor(labels), torch.tensor(attributes))


def test_evaluate_counts_per_group() -> None:
    said = [0, 0, 1, 1, 2, 2, 0]
    labels = [0, 0, 0, 1, 1, 2, 2]
    attributes = [0, 1, 1, 1, 1, 0, 0]
    aligned = torch.tensor([[True, False], [False, True], [True, False]])
    found = evaluate(ByPixel(), by_pixel(said, labels, attributes), PLAIN, aligned)
    assert found.correct.tolist() == [[1, 1], [0, 1], [1, 0]]
    assert found.total.tolist() == [[1, 2], [0, 2], [2, 0]]
    assert found.aligned.tolist() == aligned.tolist()
    assert found.correct.dtype == found.total.dtype == np.int64


def test_predictions_cover_splits_of_more_than_one_batch() -> None:
    said = torch.arange(2503) % 3
    split = by_pixel(said.tolist(), [0] * 2503, [0] * 2503)
    assert torch.equal(predictions(ByPixel(), split, PLAIN), said)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_logits_raise(value: float) -> None:
    class Once(ByPixel):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            if len(images) == 1000:  # of 1003 samples, those of the first batch
                logits[1, 2] = value
            return logits

    split = by_pixel([0] * 1003, [0] * 1003, [0] * 1003)
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        predictions(Once(), split, PLAIN)


def test_a_model_is_left_as_it_was_found(tiny: BiasedDataset) -> None:
    """Modes per module, batch-norm statistics, gradients, and what follows from the generator."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4), nn.Dropout()),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    net(torch.rand(8, 3, 8, 8)).sum().backward()
    net.train()
    net[1].eval()  # frozen statistics, as in fine-tuning
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]

    split = tiny.evaluation["valid_unbiased"]
    transform = Transform(crop_padding=2, flip=True)
    stream = torch.get_rng_state()
    first = predictions(net, split, transform)
    assert torch.equal(torch.get_rng_state(), stream)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(
        torch.equal(p.grad, kept)
        for p, kept in zip(net.parameters(), gradients, strict=True)
        if p.grad is not None
    )
    assert torch.equal(first, net.eval()(transform(split.images, augment=False)).argmax(1))


def test_a_masked_network_counts_what_it_keeps() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    whole = (12 + 4) + (4 + 4) + (8 + 2)
    assert count_parameters(net) == {"parameters": whole, "parameters_kept": whole}
    add_gates(net, init=1.5)
    net.train()
    assert count_parameters(net) == {"parameters": whole, "parameters_kept": whole}
    assert net.training
    with torch.no_grad():
        gates(net)["0"][:, 0] = -1.0
    assert count_parameters(net) == {"parameters": whole, "parameters_kept": whole - 4}
