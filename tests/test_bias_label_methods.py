"""GroupDRO, EnD and balanced ERM: golden values of the authors' code and hand-made cases.

The fixture is B = 12 samples with features sin(1 + 8 i + d), labels i mod 3, attributes i mod 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Run, TrainingSet
from harness.losses import balanced_weights, group_ids
from harness.nets import Backbone, build_net
from harness.space import Settings, build
from harness.training_set import Batch
from methods import end, groupdro
from methods.end import EnD
from methods.erm import ERM
from methods.groupdro import GroupDRO

B = 12
LABELS, ATTRIBUTES = torch.arange(B) % 3, torch.arange(B) % 4


@pytest.fixture
def features() -> Tensor:
    return torch.sin(1.0 + torch.arange(B * 8).view(B, 8)).requires_grad_()


def close(actual: Tensor, expected: float | list[float] | Tensor) -> None:
    expected = torch.as_tensor(expected)
    torch.testing.assert_close(actual.detach(), expected, rtol=1e-5, atol=1e-6, check_dtype=False)


class Recorder:
    """Keeps losses, updates nothing."""

    losses: list[Tensor]

    def __init__(self, parameters: object, config: object) -> None:
        Recorder.losses = []

    def step(self, loss: Tensor) -> None:
        Recorder.losses.append(loss.detach())


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The weights that were asked for."""
    asked: list[Tensor] = []
    real = TrainingSet.weighted

    def weighted(self: TrainingSet, weights: Tensor, size: int, steps: int) -> Iterator[Batch]:
        asked.append(weights)
        return real(self, weights, size, steps)

    monkeypatch.setattr(TrainingSet, "weighted", weighted)
    return asked


# Groups


def test_groups_are_the_cells_that_have_samples() -> None:
    labels, attributes = torch.tensor([2, 0, 2, 0, 1]), torch.tensor([0, 3, 1, 3, 0])
    assert group_ids(labels, attributes).tolist() == [2, 0, 3, 0, 1]


def test_balanced_weights_give_each_group_the_same_total() -> None:
    assert balanced_weights(torch.tensor([0, 1, 1, 1])).tolist() == pytest.approx([4, *[4 / 3] * 3])


@pytest.mark.parametrize(
    ("sampling", "weights"),
    [
        ("uniform", None),
        ("class_balanced", [2.0] * 64),
        # Cells (0, 0), (0, 1), (1, 0), (1, 1) hold 28, 4, 4 and 28 samples; the first 8 conflict.
        ("group_balanced", [16.0] * 8 + [64 / 28] * 56),
    ],
)
def test_erm_balances(
    train: TrainingSet,
    make_run: Callable[..., Run],
    sampled: list[Tensor],
    sampling: str,
    weights: list[float] | None,
) -> None:
    settings: Settings = {"sampling": sampling, "training.steps": 2, "training.batch_size": 16}
    method = build(ERM, settings)
    assert method.uses_bias_labels == (sampling == "group_balanced")
    list(method.fit(train, make_run(uses_bias_labels=method.uses_bias_labels)))
    if weights is None:
        assert not sampled
    else:
        close(sampled[0], weights)


# GroupDRO


def test_group_weights_follow_the_authors() -> None:
    losses = torch.tensor([0.2, 1.0, 0.0, 3.0], requires_grad=True)
    q = groupdro.reweigh(torch.full((4,), 0.25), losses, 0.01)
    assert not q.requires_grad
    close(q, [0.247866, 0.249857, 0.247371, 0.254905])
    close(q @ losses, 1.0641452)
    close(groupdro.reweigh(torch.tensor([0.5, 0.5]), torch.tensor([0.0, 2.0]).log(), 1.0),
          [0.0, 1.0])  # fmt: skip
    close(groupdro.reweigh(torch.tensor([0.8, 0.2]), torch.tensor([1.0, 4.0]).log(), 1.0),
          [0.5, 0.5])  # fmt: skip


def test_losses_are_averaged_within_groups() -> None:
    losses = torch.tensor([1.0, 2.0, 4.0, 9.0])
    means = groupdro.mean_by_group(losses, torch.tensor([1, 3, 1, 3]), 5)
    assert means.tolist() == [0.0, 2.5, 0.0, 5.5, 0.0]


@pytest.mark.parametrize("adjustment", [0.0, 3.0])
def test_groupdro_carries_its_weights_from_step_to_step(
    train: TrainingSet,
    make_run: Callable[..., Run],
    sampled: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
    adjustment: float,
) -> None:
    """Losses of three steps of a network that is never updated, against loops."""
    monkeypatch.setattr(groupdro, "Descent", Recorder)
    method = build(GroupDRO, {
        "training.steps": 3, "training.batch_size": 16, "training.step_size": 0.5,
        "training.adjustment": adjustment,
    })  # fmt: skip
    assert method.uses_bias_labels
    torch.manual_seed(0)
    (net,) = method.fit(train, make_run(uses_bias_labels=True))
    close(sampled[0], [16.0] * 8 + [64 / 28] * 56)

    torch.manual_seed(0)
    twin = build_net(Backbone(), 2, (3, 8, 8))
    conflicting = torch.arange(64) < 8
    q = [0.25] * 4
    for step, batch in enumerate(train.weighted(sampled[0], 16, 3)):
        losses = F.cross_entropy(twin(batch.images), batch.labels, reduction="none")
        means = []
        for label in (0, 1):
            for attribute in (0, 1):
                cell = (batch.labels == label) & (
                    conflicting[batch.indices] == (label != attribute)
                )
                size = 28 if label == attribute else 4
                mean = losses[cell].mean().item() if cell.any() else 0.0
                means.append(mean + adjustment / size**0.5)
        raised = [w * torch.tensor(0.5 * m).exp().item() for w, m in zip(q, means, strict=True)]
        q = [w / sum(raised) for w in raised]
        close(Recorder.losses[step], sum(w * m for w, m in zip(q, means, strict=True)))
    assert net.training


# EnD


def test_regularisers_match_the_authors(features: Tensor) -> None:
    apart, together = end.regularisers(features, LABELS, ATTRIBUTES)
    close(apart, 0.695490)
    close(together, 0.434608)


@pytest.mark.parametrize("pairs", ["half", "all"])
def test_regularisers_match_their_formulas_written_as_loops(
    features: Tensor, pairs: end.Pairs
) -> None:
    torch.manual_seed(0)
    labels, attributes = torch.randint(3, (B,)), torch.randint(4, (B,))
    unit = features.detach() / features.detach().norm(dim=1, keepdim=True)
    sums, same, across = [0.0] * 4, 0, []
    for i in range(B):
        for j in range(i):
            cosine = float(unit[i] @ unit[j])
            if attributes[i] == attributes[j]:
                sums[int(attributes[i])] += cosine
                same += 1
            elif labels[i] == labels[j] and (pairs == "all" or attributes[i] < attributes[j]):
                across.append((1 + cosine) / 2)
    apart, together = end.regularisers(features, labels, attributes, pairs)
    close(apart, sum(map(abs, sums)) / same)
    close(together, 1 - sum(across) / len(across))
    for term in (apart, together):
        (gradient,) = torch.autograd.grad(term, features, retain_graph=True)
        assert gradient.norm() > 0


def test_terms_without_pairs_are_zero(features: Tensor) -> None:
    apart, _ = end.regularisers(features, LABELS, torch.arange(B))
    _, together = end.regularisers(features, torch.arange(B), ATTRIBUTES)
    assert apart == together == 0
    (apart + together).backward()
    assert features.grad is not None
    assert not features.grad.any()


def test_end_adds_both_terms_to_cross_entropy(
    train: TrainingSet, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(end, "Descent", Recorder)
    method = build(EnD, {
        "training.steps": 1, "training.batch_size": 64, "training.disentangling": 2.0,
        "training.entangling": 5.0, "training.pairs": "all",
    })  # fmt: skip
    assert method.uses_bias_labels
    run = make_run(uses_bias_labels=True)
    torch.manual_seed(0)
    list(method.fit(train, run))
    torch.manual_seed(0)
    net = build_net(Backbone(), 2, (3, 8, 8))
    batch = next(train.shuffled(64, 1))
    features = net.features(batch.images)
    attributes = run.bias_labels()[batch.indices]
    apart, together = end.regularisers(features, batch.labels, attributes, "all")
    expected = F.cross_entropy(net.head(features), batch.labels) + 2 * apart + 5 * together
    assert apart > 0.1 and together > 0
    close(Recorder.losses[0], expected.detach())
