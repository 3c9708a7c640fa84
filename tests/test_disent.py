"""DisEnt and DisEnt+BE: steps, gradient flow and schedule against the formulas written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness import Run, TrainingSet, registry
from harness.disentangled import Disentangled, LateDescent
from harness.nets import Backbone
from harness.optimization import Training
from harness.space import build
from harness.training_set import Batch
from methods import disent, disent_be

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 0, 1, 1, 0, 1])
BATCHES = [[0, 1, 2, 3], [4, 2, 0, 5], [1, 3, 5, 0]]
ELECTED = torch.tensor([True, True, False, True, False, False])  # differs along every permutation
ORDER = torch.tensor([2, 0, 3, 1])
# As if augmented anew at each step: the losses of a sample change though no network does.
IMAGES = 255 * torch.rand(3, 6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BIAS, SWAP, SWAP_BIAS, DECAY, Q = 3.0, 0.5, 7.0, 0.6, 0.8
Both = pytest.mark.parametrize("module", [disent, disent_be])


class Recorder:
    """In place of `LateDescent`: notes each loss and its gradients, and updates nothing."""

    def __init__(self, parameters: Iterator[nn.Parameter], config: Training, start: int) -> None:
        self.parameters = [*parameters]
        self.losses: list[float] = []
        self.gradients: list[list[Tensor | None]] = []

    def step(self, loss: Tensor) -> None:
        self.losses.append(loss.item())
        self.gradients.append([*torch.autograd.grad(loss, self.parameters, allow_unused=True)])


class Data:
    """A training set that deals BATCHES."""

    labels, num_classes, image_shape, device = LABELS, 2, (3, 8, 8), CPU

    def shuffled(self, batch_size: int, steps: int, drop_last: bool) -> Iterator[Batch]:
        assert drop_last
        for step, at in enumerate(BATCHES[:steps]):
            yield Batch(IMAGES[step, at], LABELS[at], torch.tensor(at))


class Elections:
    """A run whose committee is sure of the ELECTED."""

    device = CPU

    def stage(self, *_: object) -> Tensor:
        return torch.where(ELECTED, 1.0, 0.5)

    def audit(self, mined: Tensor) -> None:
        self.mined = mined


class Recorded:
    """A `fit` of three steps, the last of which swaps (step > 1)."""

    def __init__(self, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        name = module.__name__.removeprefix("methods.")
        settings: dict[str, Any] = {
            "steps": 3,
            "eval_every": 1,
            "swap_after": 1,
            "ema_decay": DECAY,
            "bias_weight": BIAS,
            "swap_weight": SWAP,
            "swap_bias_weight": SWAP_BIAS,
        }
        if module is disent:
            settings["gce_q"] = Q
        recorders: list[Recorder] = []

        def record(*arguments: Any, **named: Any) -> Recorder:
            recorders.append(Recorder(*arguments, **named))
            return recorders[-1]

        monkeypatch.setattr(module, "LateDescent", record)
        monkeypatch.setattr(torch, "randperm", lambda count: ORDER)
        torch.manual_seed(0)
        method = build(
            registry.load(name), {f"training.{key}": each for key, each in settings.items()}
        )
        nets = list(method.fit(Data(), Elections()))
        assert len(nets) == 3
        self.net = nets[-1]
        assert isinstance(self.net, Disentangled)
        (self.recorder,) = recorders
        self.purified = module is disent_be

    def biased_loss(self, logits: Tensor, labels: Tensor, elected: Tensor) -> Tensor:
        losses = cross_entropy(logits, labels)
        if self.purified:
            return losses[elected].mean() if elected.any() else losses.sum() * 0
        return (Q * losses.detach().neg().exp() ** Q * losses).mean()

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Per step the loss of the intrinsic and of the biased network, by the published formulas.

        In the first the biased embeddings are constants, in the second the intrinsic ones.
        """
        assert isinstance(self.net, Disentangled)
        intrinsic, biased = self.net.intrinsic, self.net.biased
        averages: tuple[dict[int, float], dict[int, float]] = ({}, {})
        for step, at in enumerate(BATCHES):
            x, y, flags = IMAGES[step, at], LABELS[at], ELECTED[at]
            z_l, z_b = intrinsic.features(x), biased.features(x)
            fixed_l, fixed_b = z_l.detach(), z_b.detach()
            u_l = intrinsic.head(torch.cat([z_l, fixed_b], 1))
            u_b = biased.head(torch.cat([fixed_l, z_b], 1))
            for past, logits in zip(averages, (u_l, u_b), strict=True):
                for n, loss in zip(at, cross_entropy(logits, y).tolist(), strict=True):
                    past[n] = DECAY * past[n] + (1 - DECAY) * loss if n in past else loss
            w = torch.tensor([weight(n, *averages) for n in at])
            mine = (w * cross_entropy(u_l, y)).mean()
            its = BIAS * self.biased_loss(u_b, y, flags)
            if step > 1:
                u_l = intrinsic.head(torch.cat([z_l, fixed_b[ORDER]], 1))
                u_b = biased.head(torch.cat([fixed_l, z_b[ORDER]], 1))
                mine = mine + SWAP * (w * cross_entropy(u_l, y)).mean()
                swapped = self.biased_loss(u_b, y[ORDER], flags[ORDER])
                its = its + SWAP * SWAP_BIAS * swapped
            yield mine, its


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.log_softmax(1).gather(1, labels[:, None]).squeeze(1)


def weight(n: int, intrinsic: dict[int, float], biased: dict[int, float]) -> float:
    """LfF's relative difficulty of sample n."""
    scaled = [
        each[n] / max(loss for m, loss in each.items() if LABELS[m] == LABELS[n])
        for each in (biased, intrinsic)
    ]
    return scaled[0] / (sum(scaled) + 1e-8)


@Both
def test_each_step_is_on_the_published_loss(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(module, monkeypatch)
    expected = [(mine + its).item() for mine, its in recorded.parts()]
    assert recorded.recorder.losses == pytest.approx(expected, rel=1e-5)


@Both
def test_each_network_learns_from_its_own_losses_alone(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """z_l has gradient from W CE terms only, z_b from the biased network's terms only."""
    recorded = Recorded(module, monkeypatch)
    assert isinstance(recorded.net, Disentangled)
    nets = recorded.net.intrinsic, recorded.net.biased
    for step, losses in enumerate(recorded.parts()):
        actual = iter(recorded.recorder.gradients[step])
        for net, loss in zip(nets, losses, strict=True):
            for gradient in torch.autograd.grad(loss, [*net.parameters()]):
                found = next(actual)
                assert found is not None
                torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-7)
        assert next(actual, None) is None


def test_logits_read_both_embeddings_and_learn_from_one() -> None:
    torch.manual_seed(0)
    net = Disentangled(Backbone("mlp16"), 3, (3, 8, 8))
    z_l, z_b = (torch.rand(5, 16, requires_grad=True) for _ in range(2))
    for index, (own, other) in enumerate([(z_l, z_b), (z_b, z_l)]):
        logits = net.logits(z_l, z_b)[index]
        assert logits.shape == (5, 3)
        gradient, crossed = torch.autograd.grad(logits.sum(), [own, other], allow_unused=True)
        assert gradient.abs().sum() > 0
        assert crossed is None
        both = [z_l.detach() + (own is z_l), z_b.detach() + (own is z_b)]
        assert not torch.equal(logits, net.logits(*both)[index])
        both = [z_l.detach() + (own is z_b), z_b.detach() + (own is z_l)]
        assert not torch.equal(logits, net.logits(*both)[index])


def test_the_classifier_is_the_intrinsic_head_on_both_embeddings() -> None:
    torch.manual_seed(0)
    net = Disentangled(Backbone("mlp16"), 2, (3, 8, 8))
    z_l, z_b = net.intrinsic.features(IMAGES[0]), net.biased.features(IMAGES[0])
    weights, bias = net.intrinsic.head.weight, net.intrinsic.head.bias
    expected = z_l @ weights[:, :16].T + z_b @ weights[:, 16:].T + bias
    torch.testing.assert_close(net(IMAGES[0]), expected)


def test_batch_norm_moves_once_per_step(train: TrainingSet, make_run: Callable[..., Run]) -> None:
    settings = {"backbone.arch": "cnn", "training.batch_size": 16, "training.steps": 5}
    method = build(registry.load("disent"), settings | {"training.swap_after": 1})
    torch.manual_seed(0)
    *_, net = method.fit(train, make_run())
    counts = {n: int(b) for n, b in net.named_buffers() if n.endswith("num_batches_tracked")}
    assert len(counts) == 6
    assert set(counts.values()) == {5}


# Schedule


def rates(start: int, every: int, steps: int) -> list[float]:
    """The learning rate of each step."""
    config = Training(optimizer="sgd", lr=1e-2, decay_steps=every, decay_factor=0.5)
    parameter = nn.Parameter(torch.zeros(()))
    descent = LateDescent([parameter], config, start)
    seen = []
    for _ in range(steps):
        before = parameter.item()
        seen.append(descent.optimizer.param_groups[0]["lr"])
        descent.step(1.0 * parameter)
        assert parameter.item() < before
    return seen


def test_the_rate_falls_first_when_both_waits_are_over() -> None:
    """A thousandth of the authors' numbers: theirs falls at steps 20,000, 30,000 and 40,000."""
    expected = [1e-2] * 20 + [5e-3] * 10 + [2.5e-3] * 10 + [1.25e-3] * 10
    assert rates(start=10, every=10, steps=50) == expected
    defaults = build(registry.load("disent"), {}).training
    assert (defaults.swap_after, defaults.decay_steps) == (10_000, 10_000)
    assert (defaults.lr, defaults.decay_factor, defaults.steps) == (1e-2, 0.5, 50_000)


def test_the_authors_rate_at_the_first_fall() -> None:
    assert rates(start=10_000, every=10_000, steps=20_001)[19_999:] == [1e-2, 5e-3]


@Both
def test_swapping_and_decay_begin_where_they_should_within_fit(
    module: ModuleType,
    train: TrainingSet,
    make_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[bool, float]] = []
    swapped = False
    real = torch.randperm

    def randperm(count: int) -> Tensor:
        nonlocal swapped
        swapped |= count == 16  # the batch; the training set has 64
        return real(count)

    class Spy(LateDescent):
        def step(self, loss: Tensor) -> None:
            nonlocal swapped
            seen.append((swapped, self.optimizer.param_groups[0]["lr"]))
            swapped = False
            super().step(loss)

    monkeypatch.setattr(torch, "randperm", randperm)
    monkeypatch.setattr(module, "LateDescent", Spy)
    settings = {
        "batch_size": 16,
        "steps": 9,
        "lr": 8e-3,
        "swap_after": 2,
        "decay_steps": 3,
        "decay_factor": 0.5,
    }
    settings = {f"training.{name}": value for name, value in settings.items()}
    if module is disent_be:
        settings |= {"member.batch_size": 16, "member.steps": 2}
    method = build(registry.load(module.__name__.removeprefix("methods.")), settings)
    torch.manual_seed(0)
    assert len(list(method.fit(train, make_run()))) == 1
    assert [on for on, _ in seen] == [False] * 3 + [True] * 6
    assert [rate for _, rate in seen] == [8e-3] * 5 + [4e-3] * 3 + [2e-3]


def test_the_paper_presets_are_the_authors() -> None:
    assert registry.preset_settings("disent", "paper", "cmnist", 0.5)["backbone.arch"] == "mlp16"
    tabulated = {0.5: (5e-4, 1.0), 1.0: (1e-3, 5.0), 2.0: (1e-3, 5.0), 5.0: (1e-3, 1.0)}
    for ratio, (rate, bias_weight) in tabulated.items():
        settings = registry.preset_settings("disent", "paper", "cifar10c", ratio)
        assert (settings["backbone.arch"], settings["backbone.weights"]) == ("resnet18", "none")
        training = build(registry.load("disent"), settings).training
        assert training.lr == rate
        assert training.bias_weight == training.swap_bias_weight == bias_weight
        assert (training.swap_weight, training.decay_factor) == (1.0, 0.5)
