"""What gates add to a training step of ResNet-18 on 32x32 images: one fused node or plain autograd.

All steps are forward, backward and update. A dense step trains the weights; a gated one trains the
gates on frozen weights, as DCWP does.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from harness.gates import add_gates, gates, sample_mask
from harness.nets import Backbone, Net, build_net
from harness.optimization import Training
from methods.dcwp import GATE_START
from tests.benchmarks.trials import bare_step


class _TwoUniforms(nn.Module):
    """The foil: a difference of two Gumbel variates, the formula as it stands, autograd."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.full_like(weight, GATE_START))

    def forward(self, weight: Tensor) -> Tensor:
        first, second = (torch.rand_like(weight).clamp_(1e-7, 1 - 1e-7) for _ in range(2))
        noise = (-first.log()).log() - (-second.log()).log()
        return weight * sample_mask(self.theta, noise, "double_sigmoid", temperature=1.0)


def _fused(net: Net) -> list[nn.Parameter]:
    add_gates(net, init=GATE_START)
    return list(gates(net).values())


def _plain(net: Net) -> list[nn.Parameter]:
    foils = []
    for module in [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]:
        foils.append(_TwoUniforms(module.weight))
        parametrize.register_parametrization(module, "weight", foils[-1], unsafe=True)
    return [foil.theta for foil in foils]


def _step(size: int, gate: Callable[[Net], list[nn.Parameter]] | None) -> Callable[[], None]:
    net = build_net(Backbone("resnet18"), 10, (3, 32, 32))
    learned = list(net.parameters())
    if gate is not None:
        learned = gate(net.requires_grad_(False))
    images, labels = torch.randn(size, 3, 32, 32), torch.arange(size) % 10
    return bare_step(learned, Training(), lambda: F.cross_entropy(net(images), labels))


@pytest.mark.parametrize(
    ("name", "gate", "aim"), [("fused", _fused, 1.25), ("two uniforms, autograd", _plain, None)]
)
def test_gates(name, gate, aim, sizes, compare):
    size = sizes.batch_size
    compare(f"gates, {name}: step / dense step", _step(size, gate), _step(size, None), aim)
