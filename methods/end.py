"""EnD: Entangling and Disentangling (Tartaglione, Barbano and Grangetto, CVPR 2021).

Cross-entropy with two terms on the normalised features (arXiv:2103.02023): one decorrelates samples
that share their bias attribute, one correlates samples of a class that differ in it. Training reads
bias labels.

Defaults follow the authors' code on Biased-MNIST, whose second term counts a pair i > j only if the
attribute of i is below that of j, about half of the pairs meant (`training.pairs`).

Departures from the authors' code:
1. Features are those of the given backbone, mostly behind a ReLU; the authors' convolutional net of
   kernel 7 ends in a tanh, so their cosines can be negative and ours mostly cannot.
2. A term without pairs is 0.
3. Durations count steps, not epochs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from harness import Method, Run, TrainingSet, tunable
from harness.nets import Backbone, build_net
from harness.optimization import Descent, Training
from harness.space import Log, Uniform

Pairs = Literal["half", "all"]


@dataclass(frozen=True)
class EndTraining(Training):
    """How the network is trained; defaults are 80 epochs of Biased-MNIST."""

    steps: PositiveInt = tunable(18_800, "Optimizer steps.")
    lr: PositiveFloat = tunable(1e-3, "Learning rate.", Log(1e-4, 1e-1))
    weight_decay: NonNegativeFloat = tunable(
        1e-4, "L2 penalty on all weights.", Log(1e-6, 1e-2), on_request=True
    )
    decay_steps: PositiveInt = tunable(4700, "Steps between learning-rate decays.")
    decay_factor: PositiveFloat = tunable(0.1, "Learning-rate factor at each decay.")
    disentangling: NonNegativeFloat = tunable(
        0.1, "Weight of the term that decorrelates equal attributes (alpha).", Uniform(0.0, 1.0)
    )
    entangling: NonNegativeFloat = tunable(
        0.1, "Weight of the term that correlates a class across attributes (beta).",
        Uniform(0.0, 1.0),
    )  # fmt: skip
    pairs: Pairs = tunable(
        "half", "Entangle the pairs that the authors' code counts, or all pairs of a class."
    )
    eval_every: PositiveInt = tunable(500, "Steps between looks at the classifier.")


@dataclass(frozen=True)
class EnD(Method):
    """EnD: disentangle features of equal bias, entangle those of equal class (CVPR 2021)."""

    name = "end"
    backbone: Backbone = Backbone()
    training: EndTraining = EndTraining()

    @property
    def uses_bias_labels(self) -> bool:
        """Both terms read them."""
        return True

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """Trains one network on the regularised loss."""
        config = self.training
        attributes = run.bias_labels()  # (N,)
        net = build_net(self.backbone, train.num_classes, train.image_shape).to(run.device)
        descent = Descent(net.parameters(), config)
        for step, batch in enumerate(train.shuffled(config.batch_size, config.steps), 1):
            features = net.features(batch.images)  # (B, D)
            loss = F.cross_entropy(net.head(features), batch.labels)
            apart, together = regularisers(
                features, batch.labels, attributes[batch.indices], config.pairs
            )
            descent.step(loss + config.disentangling * apart + config.entangling * together)
            if step % config.eval_every == 0 or step == config.steps:
                yield net


def regularisers(
    features: Tensor, labels: Tensor, attributes: Tensor, pairs: Pairs = "half"
) -> tuple[Tensor, Tensor]:
    """The disentangling and the entangling term, on cosines of pairs i > j of a batch.

    Args:
        features: (B, D); normalised here.
        labels: (B,) int.
        attributes: (B,) int, the bias attribute.
        pairs: Whether the entangling term counts pairs of a class with a_i < a_j or a_i ≠ a_j.

    Returns:
        () sum over attributes of the absolute sum of cosines within each, by the number of these
        pairs; () one minus the mean of (1 + cosine) / 2 over the pairs of a class.
    """
    unit = F.normalize(features)
    cosine = (unit @ unit.T).clamp(-1, 1).tril(-1)  # (B, B), 0 unless i > j
    earlier = torch.ones_like(cosine, dtype=torch.bool).tril(-1)

    same = (attributes[:, None] == attributes) & earlier
    by_anchor = torch.where(same, cosine, 0).sum(1)  # (B,) all of attribute a_i
    member = F.one_hot(attributes).to(cosine.dtype)  # (B, A)
    apart = (by_anchor @ member).abs().sum() / same.sum().clamp(min=1)

    row, column = attributes[:, None], attributes[None, :]
    across = row < column if pairs == "half" else row != column
    counted = (labels[:, None] == labels) & across & earlier
    distance = 1 - (1 + cosine) / 2
    together = torch.where(counted, distance, 0).sum() / counted.sum().clamp(min=1)
    return apart, together
