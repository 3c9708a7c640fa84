"""ReBias: the estimator, the small receptive field, and who moves in which half of a step."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import Run, TrainingSet
from harness.nets import Net
from harness.space import Settings, build
from methods import rebias
from methods.rebias import ReBias, build_biased_net, hsic

SETTINGS: Settings = {
    "training.steps": 2, "training.batch_size": 16, "training.eval_every": 1,
    "training.independence": 3.0, "training.biased_dependence": 7.0,
    "training.radius": 8.0, "training.biased_radius": 2.0,
}  # fmt: skip


@pytest.fixture
def features() -> Tensor:
    return torch.sin(1.0 + torch.arange(96).view(12, 8))


def test_hsic_matches_the_authors(features: Tensor) -> None:
    close = torch.testing.assert_close
    close(hsic(features, features[:, :3]), torch.tensor(0.0729247), rtol=1e-5, atol=0)


def test_hsic_matches_its_definition_over_distinct_samples() -> None:
    """Averages of k l, k k' and chains over pairs, quadruples and triples of distinct samples."""
    torch.manual_seed(0)
    x, y = torch.randn(6, 3, dtype=torch.double), torch.randn(6, 2, dtype=torch.double)
    k = torch.exp(-torch.cdist(x, x).square() / (2 * 1.5**2))
    l = torch.exp(-torch.cdist(y, y).square() / (2 * 0.7**2))  # noqa: E741
    n = range(6)
    pairs = [k[i, j] * l[i, j] for i in n for j in n if i != j]
    quads = [k[i, j] * l[q, r] for i in n for j in n for q in n for r in n
             if len({i, j, q, r}) == 4]  # fmt: skip
    triples = [k[i, j] * l[i, q] for i in n for j in n for q in n if len({i, j, q}) == 3]
    expected = sum(sum(each) / len(each) * f for each, f in ((pairs, 1), (quads, 1), (triples, -2)))
    torch.testing.assert_close(hsic(x, y, 1.5, 0.7), torch.as_tensor(expected))


def test_hsic_tells_dependence_from_independence() -> None:
    torch.manual_seed(0)
    drawn = [torch.randn(2, 64, 2) for _ in range(50)]
    independent = torch.stack([hsic(x, y) for x, y in drawn])
    assert independent.mean().abs() < 1e-3
    assert independent.min() < 0 < independent.max()
    assert hsic(drawn[0][0], drawn[0][0].square()) > 5 * independent.std()


def test_hsic_has_finite_gradients_for_equal_samples() -> None:
    x = torch.ones(5, 3).requires_grad_()
    hsic(x, torch.randn(5, 2)).backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize(("kernel", "side"), [(1, 1), (3, 9)])
def test_the_biased_network_sees_small_windows(kernel: int, side: int) -> None:
    """The gradient of one position of the last map reaches a square of side 4 (k - 1) + 1."""
    torch.manual_seed(0)
    net = build_biased_net(kernel, 4, 3).double().eval()
    convolutions = nn.Sequential(*list(net.features)[:12])  # type: ignore[call-overload]
    images = torch.randn(1, 3, 20, 20, dtype=torch.double, requires_grad=True)
    maps = convolutions(images)
    assert maps.shape == (1, 128, 20, 20)
    maps[0, :, 10, 10].sum().backward()
    assert images.grad is not None
    reached = images.grad[0].abs().sum(0).nonzero()
    assert (reached.max(0).values - reached.min(0).values + 1).tolist() == [side, side]
    assert net(images).shape == (1, 4)
    assert net.feature_dim == 128


class Spy:
    """A descent that notes its loss and both networks after its update, which is one of SGD."""

    nets: list[Net]
    seen: list[tuple[str, Tensor, list[Net]]]

    def __init__(self, parameters: object, config: object) -> None:
        self.parameters = list(parameters)  # type: ignore[call-overload]

    def step(self, loss: Tensor) -> None:
        f, g = Spy.nets
        who = "f" if self.parameters[0] is next(f.parameters()) else "g"
        for parameter in (*f.parameters(), *g.parameters()):
            parameter.grad = None
        loss.backward()
        other = g if who == "f" else f
        assert all(parameter.grad is None for parameter in other.parameters())
        assert all(parameter.grad is not None for parameter in self.parameters)
        with torch.no_grad():
            for parameter in self.parameters:
                parameter -= 0.1 * parameter.grad
        Spy.seen.append((who, loss.detach(), copy.deepcopy(Spy.nets)))


def test_each_step_moves_the_biased_network_then_the_classifier(
    train: TrainingSet, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    Spy.nets, Spy.seen = [], []
    start: list[Net] = []
    for name in ("build_net", "build_biased_net"):

        def build_and_note(*arguments: object, real: object = getattr(rebias, name)) -> Net:
            net: Net = real(*arguments)  # type: ignore[operator]
            Spy.nets.append(net)
            start.append(copy.deepcopy(net))
            return net

        monkeypatch.setattr(rebias, name, build_and_note)
    monkeypatch.setattr(rebias, "Descent", Spy)
    torch.manual_seed(0)
    method = build(ReBias, SETTINGS)
    assert not method.uses_bias_labels
    looks = []
    for net in method.fit(train, make_run()):
        assert net is Spy.nets[0]
        looks.append([n.get_buffer("features.bn1.num_batches_tracked").item() for n in Spy.nets])
    assert looks == [[2, 2], [4, 4]]  # twice per batch, both networks
    assert [who for who, *_ in Spy.seen] == ["g", "f", "g", "f"]

    torch.manual_seed(0)
    method_draws = [rebias.build_net(method.backbone, 2, (3, 8, 8)), build_biased_net(1, 2, 3)]
    del method_draws  # only to bring the generator where the batches begin
    batches = list(train.shuffled(16, 2, drop_last=True))
    before = start[:2]
    for (who, loss, after), batch in zip(Spy.seen, [b for b in batches for _ in "gf"], strict=True):
        f, g = (copy.deepcopy(net).train() for net in before)
        of_f, of_g = f.features(batch.images), g.features(batch.images)
        dependence = hsic(of_f, of_g, 8.0, 2.0)
        assert dependence.abs() > 1e-3
        if who == "g":
            expected = F.cross_entropy(g.head(of_g), batch.labels) - 7 * dependence
        else:
            expected = F.cross_entropy(f.head(of_f), batch.labels) + 3 * dependence
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
        before = after
