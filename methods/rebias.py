"""ReBias: learning de-biased representations with biased ones (Bahng et al., ICML 2020).

A second network g with a small receptive field can only learn local cues such as colour or texture.
Each step lets g learn the labels and depend on the features of the classifier f, then lets f learn
the labels and be independent of those of g (arXiv:1910.02806); dependence is measured by HSIC with
Gaussian kernels.

Defaults follow the authors' code on Biased-MNIST: g is their convolutional net of kernel 1, both
kernel radii and weights are 1. Each half of a step runs both networks in training mode, so
batch-norm statistics move twice per batch.

Departures from the authors' code:
1. f is the given backbone; theirs is a convolutional net of kernel 7.
2. The half-step of one network computes no gradients of the other, which theirs wipes unused.
3. The short batch at the end of an epoch is dropped: the estimator needs four samples.
4. HSIC is Song's unbiased estimator with zeroed diagonals. Their code shifts every entry instead,
   which gives the same number.
5. On images whose bias is texture, kernel 3 (`biased_kernel`) stands in for their BagNet-18.
6. Durations count steps, not epochs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from harness import Method, Run, TrainingSet, tunable
from harness.nets import Backbone, Net, build_net
from harness.optimization import Descent, Training
from harness.space import Choice, Log


@dataclass(frozen=True)
class RebiasTraining(Training):
    """How both networks are trained; defaults are 80 epochs of Biased-MNIST."""

    steps: PositiveInt = tunable(18_720, "Steps of each network.")
    lr: PositiveFloat = tunable(1e-3, "Learning rate of both networks.", Log(1e-4, 1e-1))
    weight_decay: NonNegativeFloat = tunable(
        1e-4, "L2 penalty on all weights.", Log(1e-6, 1e-2), on_request=True
    )
    decay_steps: PositiveInt = tunable(4680, "Steps between learning-rate decays.")
    decay_factor: PositiveFloat = tunable(0.1, "Learning-rate factor at each decay.")
    independence: NonNegativeFloat = tunable(
        1.0, "Weight of HSIC in the loss of the classifier.", Log(0.1, 100.0)
    )
    biased_dependence: NonNegativeFloat = tunable(
        1.0, "Weight of HSIC in the loss of the biased network.", Log(0.1, 100.0), on_request=True
    )
    radius: PositiveFloat = tunable(
        1.0, "Radius of the kernel on the classifier's features.", Log(0.25, 8.0)
    )
    biased_radius: PositiveFloat = tunable(
        1.0, "Radius of the kernel on the biased network's features.", Log(0.25, 8.0),
        on_request=True,
    )  # fmt: skip
    eval_every: PositiveInt = tunable(500, "Steps between looks at the classifier.")


@dataclass(frozen=True)
class ReBias(Method):
    """ReBias: features independent of those of a network that sees only local cues (ICML 2020)."""

    name = "rebias"
    backbone: Backbone = Backbone()
    biased_kernel: PositiveInt = tunable(
        1, "Kernel of the four convolutions of the biased network.", Choice((1, 3)), on_request=True
    )
    training: RebiasTraining = RebiasTraining()

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """Trains both networks in turns; the classifier is what is looked at."""
        config = self.training
        classes, channels = train.num_classes, train.image_shape[0]
        f = build_net(self.backbone, classes, train.image_shape).to(run.device)
        g = build_biased_net(self.biased_kernel, classes, channels).to(run.device)
        descent_f = Descent(f.parameters(), config)
        descent_g = Descent(g.parameters(), config)
        batches = train.shuffled(config.batch_size, config.steps, drop_last=True)
        for step, batch in enumerate(batches, 1):
            # Both halves run both networks in training mode: batch norm moves twice per batch.
            with torch.no_grad():
                fixed = f.features(batch.images)  # (B, D)
            learned = g.features(batch.images)  # (B, D')
            loss = F.cross_entropy(g.head(learned), batch.labels)
            dependence = hsic(fixed, learned, config.radius, config.biased_radius)
            descent_g.step(loss - config.biased_dependence * dependence)

            with torch.no_grad():
                fixed = g.features(batch.images)  # (B, D')
            learned = f.features(batch.images)  # (B, D)
            loss = F.cross_entropy(f.head(learned), batch.labels)
            dependence = hsic(learned, fixed, config.radius, config.biased_radius)
            descent_f.step(loss + config.independence * dependence)
            if step % config.eval_every == 0 or step == config.steps:
                yield f


def build_biased_net(kernel: int, num_classes: int, channels: int) -> Net:
    """Four convolutions at full resolution, pooled: it sees windows of side 4 (kernel - 1) + 1."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, width in enumerate((16, 32, 64, 128), start=1):
        layers[f"conv{i}"] = nn.Conv2d(channels, width, kernel, padding="same")
        layers[f"bn{i}"] = nn.BatchNorm2d(width)
        layers[f"relu{i}"] = nn.ReLU(inplace=True)
        channels = width
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    net = Net(nn.Sequential(layers), channels, num_classes)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net.to(memory_format=torch.channels_last)


def hsic(x: Tensor, y: Tensor, radius_x: float = 1.0, radius_y: float = 1.0) -> Tensor:
    """Unbiased Hilbert-Schmidt independence criterion (Song et al., JMLR 2012).

    Args:
        x: (B, D) features, four samples or more.
        y: (B, D') features of the same samples.
        radius_x: Sigma of the kernel exp(-|x_i - x_j|^2 / (2 sigma^2)).
        radius_y: Sigma of the kernel on `y`.

    Returns:
        () estimate; 0 in expectation for independent features, and possibly negative.
    """
    k_x, k_y = _kernel(x, radius_x), _kernel(y, radius_y)  # (B, B)
    m = len(x)
    traced = (k_x * k_y).sum()
    apart = k_x.sum() * k_y.sum() / ((m - 1) * (m - 2))
    mixed = 2 / (m - 2) * (k_x.sum(0) @ k_y.sum(0))
    return (traced + apart - mixed) / (m * (m - 3))


def _kernel(x: Tensor, radius: float) -> Tensor:
    """(B, B) Gaussian kernel with a zero diagonal."""
    norms = x.square().sum(1)  # (B,)
    distances = (norms[:, None] + norms - 2 * x @ x.T).clamp(min=0)
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    return (-distances / (2 * radius**2)).exp().masked_fill(itself, 0)
