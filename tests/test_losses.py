"""Golden values come from the authors' modules; see the fixture for their inputs."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.losses import (
    LossEma,
    Positives,
    confident_cross_entropy,
    debiased_contrastive,
    gce,
    relative_difficulty,
    sparsity,
)

B, C, D = 12, 3, 8
LABELS = torch.arange(B) % C


@pytest.fixture
def features() -> Tensor:
    return torch.sin(1.0 + torch.arange(B * D).view(B, D)).requires_grad_()


@pytest.fixture
def logits() -> Tensor:
    return torch.cos(1.0 + torch.arange(B * C).view(B, C)).requires_grad_()


def mined(*samples: int) -> Tensor:
    flags = torch.zeros(B, dtype=torch.bool)
    flags[list(samples)] = True
    return flags


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


def close(actual: Tensor, expected: float | list[float]) -> None:
    torch.testing.assert_close(actual.detach(), torch.tensor(expected), rtol=1e-5, atol=1e-7)


def test_contrastive_gradient_matches_the_authors(features: Tensor) -> None:
    loss = debiased_contrastive(features, LABELS, mined(0, 5, 7))
    grad = gradient(loss, features)
    close(loss, 14.347471)
    close(grad.norm(), 2.459558)
    close(grad[0, 0], 0.311671)


@pytest.mark.parametrize(
    ("positives", "samples", "expected"),
    [
        ("either_mined", (0, 5, 7), 14.462162),
        ("partner_mined", (0, 3, 5, 7), 12.762159),
        ("either_mined", (0, 3, 5, 7), 14.092237),
        ("differ", (0, 3, 5, 7), 14.826546),
        ("all", (0, 3, 5, 7), 15.452275),
    ],
)
def test_contrastive_values(
    features: Tensor, positives: Positives, samples: tuple[int, ...], expected: float
) -> None:
    flags = mined(*samples)
    close(debiased_contrastive(features, LABELS, flags, positives=positives), expected)
    integer_flags = flags.long()
    close(debiased_contrastive(features, LABELS, integer_flags, positives=positives), expected)


def test_contrastive_matches_its_formula_written_as_loops(features: Tensor) -> None:
    features = features.detach().double()
    flags, temperature = mined(0, 5, 7), 0.2
    unit = features / features.norm(dim=1, keepdim=True)
    anchors = []
    for i in range(B):
        others = [k for k in range(B) if k != i]
        partners = [j for j in others if LABELS[j] == LABELS[i] and flags[j]]
        if partners:
            log_sum = torch.stack([unit[i] @ unit[k] / temperature for k in others]).logsumexp(0)
            terms = [log_sum - unit[i] @ unit[j] / temperature for j in partners]
            anchors.append(torch.stack(terms).mean())
    assert len(anchors) == 9
    expected = torch.stack(anchors).mean()
    torch.testing.assert_close(debiased_contrastive(features, LABELS, flags, temperature), expected)


@pytest.mark.parametrize("batch", [B, 1])
def test_contrastive_is_exactly_zero_without_positives(features: Tensor, batch: int) -> None:
    flags = mined(0) if batch == 1 else mined()
    loss = debiased_contrastive(features[:batch], LABELS[:batch], flags[:batch])
    assert loss.item() == 0
    assert gradient(loss, features).eq(0).all()


def test_gce_matches_the_authors(logits: Tensor) -> None:
    losses = gce(logits, LABELS)
    close(losses[:3], [0.236917, 0.363179, 0.335499])
    close(losses.mean(), 0.3205886)
    close(gradient(losses.mean(), logits).norm(), 0.0688135)
    close(F.cross_entropy(logits, LABELS), 1.2462116)


def test_true_gce_has_the_published_value_and_a_proportional_gradient(logits: Tensor) -> None:
    losses = gce(logits, LABELS, form="true")
    probability = logits.softmax(dim=1)[torch.arange(B), LABELS]
    torch.testing.assert_close(losses, (1 - probability**0.7) / 0.7)
    close(losses.mean(), 0.7768778)
    lff_gradient = gradient(gce(logits, LABELS).sum(), logits)
    torch.testing.assert_close(lff_gradient, 0.7 * gradient(losses.sum(), logits))


@pytest.mark.parametrize("form", ["lff", "true"])
def test_gce_of_a_batch_of_one_and_of_a_hopeless_sample(form: str) -> None:
    logits = torch.tensor([[500.0, 0.0]], requires_grad=True)
    losses = gce(logits, torch.tensor([1]), form=form)
    assert losses.shape == (1,)
    assert losses.isfinite().all()
    assert gradient(losses.sum(), logits).isfinite().all()


def test_confident_cross_entropy_averages_over_confident_samples(logits: Tensor) -> None:
    probability = logits.softmax(dim=1)[torch.arange(B), LABELS]
    chosen = probability > 0.3
    assert 0 < chosen.sum() < B
    loss = confident_cross_entropy(logits, LABELS, threshold=0.3)
    expected = F.cross_entropy(logits[chosen], LABELS[chosen])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, logits), gradient(expected, logits))


def test_confident_cross_entropy_is_exactly_zero_without_confident_samples(logits: Tensor) -> None:
    loss = confident_cross_entropy(logits, LABELS, threshold=1.0)
    assert loss.item() == 0
    assert gradient(loss, logits).eq(0).all()


def test_sparsity_forms() -> None:
    gates = [torch.tensor([[2.0, -3.0]]), torch.tensor([0.0])]
    close(sparsity(gates), -1.0)
    close(sparsity(gates, "l1"), 5.0)
    close(sparsity(gates, "sigmoid"), 0.8807971 + 0.0474259 + 0.5)


def test_adam_turns_tiny_gradients_into_known_steps() -> None:
    """Sparsity and Adam's eps = 1e-8 interact, so both must be exactly the authors'."""
    theta = nn.Parameter(torch.full((3,), 1.5, dtype=torch.float64))
    optimizer = torch.optim.Adam([theta], lr=1e-2)
    theta.grad = torch.tensor([1e-3, -1e-8, 1e-9], dtype=torch.float64)
    optimizer.step()
    expected = torch.tensor([-0.0099999, 0.0050000, -0.00090909], dtype=torch.float64)
    torch.testing.assert_close(theta.detach() - 1.5, expected, rtol=1e-5, atol=1e-7)


def test_sparsity_alone_prunes_after_the_known_number_of_steps() -> None:
    strengths = torch.tensor([1e-10, 1e-9, 5e-9, 1e-8, 5e-8, 1e-7, 5e-6])
    theta = nn.Parameter(torch.full((7,), 1.5))
    optimizer = torch.optim.Adam([theta], lr=1e-2)
    steps_kept = torch.zeros(7)
    for _ in range(2000):
        optimizer.zero_grad()
        sparsity([strengths * theta]).backward()
        optimizer.step()
        steps_kept += theta.detach() >= 0
    first_pruned = (steps_kept + 1).tolist()
    assert first_pruned[0] == 2001  # never
    assert first_pruned[1:] == pytest.approx([1651, 451, 301, 181, 166, 151], abs=1)
    assert theta[0].item() == pytest.approx(1.30, abs=0.005)
    assert theta[1].item() == pytest.approx(-0.318, abs=0.001)


def test_ema_stores_the_first_loss_itself() -> None:
    ema = LossEma(torch.tensor([0, 1]), decay=0.7)
    trace = []
    for loss in (2.0, 1.0, 4.0):
        ema.update(torch.tensor([1]), torch.tensor([loss], requires_grad=True))
        trace.append(ema.values[1].item())
    assert trace == pytest.approx([2.0, 1.7, 2.39])
    assert ema.values[0] == 0
    assert not ema.values.requires_grad


def test_class_maximum_is_over_all_samples_of_a_class() -> None:
    ema = LossEma(torch.tensor([2, 0, 0, 2, 1]))
    ema.update(torch.tensor([0, 2, 3]), torch.tensor([0.5, 3.0, 0.25]))
    assert ema.class_max().tolist() == [3.0, 0.0, 0.5]


def test_relative_difficulty_matches_lff() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    biased, debiased = LossEma(labels), LossEma(labels)
    batches = [
        ([0, 1, 3], [0.1, 2.0, 0.2], [0.5, 1.0, 0.4], [0.0909091, 0.5, 0.5]),
        ([2, 4, 5], [0.3, 0.2, 3.0], [0.6, 0.3, 1.5], [0.2, 0.25, 0.5]),
        ([0, 5, 1], [0.05, 2.5, 2.2], [0.4, 1.2, 0.9], [0.0784752, 0.5, 0.5]),
    ]
    for samples, biased_losses, debiased_losses, expected in batches:
        indices = torch.tensor(samples)
        biased.update(indices, torch.tensor(biased_losses))
        debiased.update(indices, torch.tensor(debiased_losses))
        close(relative_difficulty(biased, debiased, indices), expected)


def test_relative_difficulty_refuses_a_class_without_loss() -> None:
    labels = torch.tensor([0, 1])
    biased, debiased = LossEma(labels), LossEma(labels)
    indices = torch.tensor([0, 1])
    biased.update(indices, torch.tensor([1.0, 0.0]))
    debiased.update(indices, torch.tensor([1.0, 1.0]))
    with pytest.raises(ValueError, match="every loss of a class is 0"):
        relative_difficulty(biased, debiased, indices)
    assert relative_difficulty(biased, debiased, indices, eps=1e-8).tolist() == [0.5, 0.0]
