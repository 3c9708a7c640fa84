"""LfF and LfF+BE: each step's loss and gradients against values made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness import registry
from harness.space import build
from harness.training_set import Batch
from methods import lff, lff_be

LABELS = torch.tensor([0, 0, 0, 1, 1, 1])
# Indices, cross-entropies of the biased and of the debiased network, and the weights that follow.
STEPS = [
    ([0, 1, 3], [0.1, 2.0, 0.2], [0.5, 1.0, 0.4], [0.0909091, 0.5, 0.5]),
    ([2, 4, 5], [0.3, 0.2, 3.0], [0.6, 0.3, 1.5], [0.2, 0.25, 0.5]),
    ([0, 5, 1], [0.05, 2.5, 2.2], [0.4, 1.2, 0.9], [0.0784752, 0.5, 0.5]),
]
ELECTED = torch.tensor([True, True, False, False, False, False])  # none in the second batch


class Player(nn.Module):
    """Returns, call after call, logits of two classes with prescribed cross-entropies."""

    def __init__(self, losses: list[list[float]]) -> None:
        super().__init__()
        self.given: list[Tensor] = []
        for (indices, *_), wanted in zip(STEPS, losses, strict=False):
            other = torch.tensor(wanted).expm1().log().clamp(min=-200)  # CE = log(1 + e^other)
            logits = torch.zeros(len(wanted), 2)
            logits[torch.arange(len(wanted)), 1 - LABELS[indices]] = other
            self.given.append(logits.requires_grad_())
        self._next = iter(self.given)

    def forward(self, images: Tensor) -> Tensor:
        return next(self._next)


class Recorder:
    """In place of `Descent`: notes each loss and its gradients, and updates nothing."""

    def __init__(self, *_: object) -> None:
        self.losses: list[float] = []

    def step(self, loss: Tensor) -> None:
        loss.backward()
        self.losses.append(loss.item())


class Data:
    """A training set that deals the batches of STEPS."""

    labels, num_classes, image_shape, device = LABELS, 2, (3, 8, 8), torch.device("cpu")

    def shuffled(self, batch_size: int, steps: int, drop_last: bool = False) -> Iterator[Batch]:
        self.drop_last = drop_last
        for indices, *_ in STEPS[:steps]:
            yield Batch(torch.zeros(3, 3, 8, 8), LABELS[indices], torch.tensor(indices))


class Elections:
    """A run whose committee is sure of the ELECTED."""

    device = torch.device("cpu")

    def stage(self, *_: object) -> Tensor:
        return torch.where(ELECTED, 1.0, 0.5)

    def audit(self, mined: Tensor) -> None:
        self.mined = mined


class Played:
    """A `fit` on prescribed losses: its networks, what it stepped on and what it yielded."""

    def __init__(
        self, module: ModuleType, losses: list[list[list[float]]], **settings: Any
    ) -> None:
        biased, debiased = self.nets = [Player(each) for each in losses]
        self.biased, self.debiased = biased, debiased
        self.recorder, self.data, self.run = Recorder(), Data(), Elections()
        nets = iter(self.nets)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "build_net", lambda *_: next(nets))
            patch.setattr(module, "Descent", lambda *_: self.recorder)
            name = module.__name__.removeprefix("methods.")
            steps = {"training.steps": 3, "training.eval_every": 1}
            method = build(registry.load(name), steps | settings)
            self.yielded = list(method.fit(self.data, self.run))


HAND = [[step[1] for step in STEPS], [step[2] for step in STEPS]]


def weighted_cross_entropy(step: int) -> float:
    """mean(W CE_d)."""
    _, _, losses, weights = STEPS[step]
    return sum(w * d for w, d in zip(weights, losses, strict=True)) / 3


def test_lff_steps_on_the_published_loss() -> None:
    """mean(q p^q CE_b) + mean(W CE_d), W from the losses of this very forward pass."""
    played = Played(lff, HAND)
    for step, (_, biased, _, _) in enumerate(STEPS):
        p = torch.tensor(biased).neg().exp()
        easy = (0.7 * p**0.7 * torch.tensor(biased)).mean().item()
        expected = easy + weighted_cross_entropy(step)
        assert played.recorder.losses[step] == pytest.approx(expected, rel=1e-5)
    assert played.yielded == [played.debiased] * 3
    assert not played.data.drop_last


def test_lff_be_steps_on_cross_entropy_of_elected_samples() -> None:
    """Batch ∩ A is {0, 1}, nothing and {0, 1}; the weights are those of all samples."""
    played = Played(lff_be, HAND)
    for step, purified in enumerate([(0.1 + 2.0) / 2, 0.0, (0.05 + 2.2) / 2]):
        expected = purified + weighted_cross_entropy(step)
        assert played.recorder.losses[step] == pytest.approx(expected, rel=1e-5)
    assert played.yielded == [played.debiased] * 3
    assert played.data.drop_last
    assert torch.equal(played.run.mined, ~ELECTED)


@pytest.mark.parametrize("module", [lff, lff_be])
def test_weights_scale_the_gradient_of_the_debiased_network(module: ModuleType) -> None:
    """∂/∂z_label of mean(W CE) is W (p - 1) / B."""
    played = Played(module, HAND)
    for logits, (indices, _, losses, weights) in zip(played.debiased.given, STEPS, strict=True):
        assert logits.grad is not None
        at_label = logits.grad[torch.arange(3), LABELS[indices]]
        p = torch.tensor(losses).neg().exp()
        expected = torch.tensor(weights) * (p - 1) / 3
        torch.testing.assert_close(at_label, expected, rtol=1e-5, atol=1e-7)


def test_weights_send_no_gradient_to_the_biased_network() -> None:
    """What reaches it is that of its own loss: q p^q (p - 1) / B."""
    played = Played(lff, HAND)
    for logits, (indices, losses, _, _) in zip(played.biased.given, STEPS, strict=True):
        assert logits.grad is not None
        at_label = logits.grad[torch.arange(3), LABELS[indices]]
        p = torch.tensor(losses).neg().exp()
        expected = 0.7 * p**0.7 * (p - 1) / 3
        torch.testing.assert_close(at_label, expected, rtol=1e-5, atol=1e-7)


def test_samples_outside_the_election_send_no_gradient_to_the_biased_network() -> None:
    played = Played(lff_be, HAND)
    for logits, (indices, *_) in zip(played.biased.given, STEPS, strict=True):
        assert logits.grad is not None
        assert torch.equal(logits.grad.abs().sum(1) > 0, ELECTED[indices])


@pytest.mark.parametrize(("module", "guarded"), [(lff, False), (lff_be, True)])
def test_only_be_guards_a_class_that_the_biased_network_fits_perfectly(
    module: ModuleType, guarded: bool
) -> None:
    """Sample 3 is the only visited one of class 1: its loss 0 is the class maximum."""
    losses = [[[0.1, 2.0, 0.0]], [[0.5, 1.0, 0.4]]]
    if guarded:
        played = Played(module, losses, **{"training.steps": 1})
        weights = 0.05 / (0.05 + 0.5), 0.5, 0.0
        expected = 1.05 + (weights[0] * 0.5 + weights[1] * 1.0) / 3
        assert played.recorder.losses == pytest.approx([expected], rel=1e-5)
    else:
        with pytest.raises(ValueError, match="every loss of a class is 0"):
            Played(module, losses, **{"training.steps": 1})


def test_hyperparameters_reach_the_formulas() -> None:
    played = Played(lff, HAND, **{"training.gce_q": 0.5, "training.ema_decay": 0.0})
    _, biased, debiased, _ = STEPS[2]
    # Without memory an average is the last loss; class maxima: 2.2 and 3 -> 2.5, 0.9 and 1.5 -> 1.2
    scaled = torch.tensor([0.05 / 2.2, 2.5 / 2.5, 2.2 / 2.2])
    other = torch.tensor([0.4 / 0.9, 1.2 / 1.2, 0.9 / 0.9])
    weights = scaled / (scaled + other)
    p = torch.tensor(biased).neg().exp()
    expected = (0.5 * p**0.5 * torch.tensor(biased)).mean() + (
        weights * torch.tensor(debiased)
    ).mean()
    assert played.recorder.losses[2] == pytest.approx(expected.item(), rel=1e-5)


def test_the_paper_presets_are_the_authors() -> None:
    cmnist = registry.preset_settings("lff", "paper", "cmnist", 0.5)
    assert cmnist["backbone.arch"] == "mlp"
    cifar = registry.preset_settings("lff", "paper", "cifar10c", 5.0)
    assert (cifar["backbone.arch"], cifar["backbone.weights"]) == ("resnet20", "none")
    method = build(registry.load("lff"), cifar)
    assert (method.training.steps, method.training.batch_size) == (196 * 200, 256)
    assert build(registry.load("lff"), cmnist).training.steps == 235 * 100
