"""ERM: empirical risk minimisation, the vanilla baseline.

Departures: none; the schedule beside DCWP's numbers is that of its authors (17,000 steps of Adam at
1e-3 with betas 0.9 and 0.99 and one halving after 10,000), see `search_spaces/erm.py`. The anchors
that balance classes or groups (`sampling`) draw i.i.d. with replacement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn

from harness import Method, Run, TrainingSet, tunable
from harness.losses import balanced_weights, group_ids
from harness.nets import Backbone, build_net
from harness.optimization import Descent, Training
from harness.space import Log
from harness.training_set import Batch


@dataclass(frozen=True)
class ErmTraining(Training):
    """ERM has one phase, so its learning rate and weight decay are searched by default."""

    lr: PositiveFloat = tunable(1e-3, "Learning rate.", Log(1e-4, 1e-1))
    weight_decay: NonNegativeFloat = tunable(0.0, "L2 penalty on all weights.", Log(1e-6, 1e-2))
    eval_every: PositiveInt = tunable(500, "Steps between looks at the classifier.")


@dataclass(frozen=True)
class ERM(Method):
    """Empirical risk minimisation: mean cross-entropy on shuffled or balanced batches."""

    name = "erm"
    backbone: Backbone = Backbone()
    training: ErmTraining = ErmTraining()
    sampling: Literal["uniform", "class_balanced", "group_balanced"] = tunable(
        "uniform",
        "uniform: shuffled epochs; class_balanced, group_balanced: draw every class, or every cell "
        "of label and bias attribute, equally often.",
    )

    @property
    def uses_bias_labels(self) -> bool:
        """Only balancing groups reads them."""
        return self.sampling == "group_balanced"

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """Trains one network; stopped early it is simply trained for less."""
        net = build_net(self.backbone, train.num_classes, train.image_shape).to(run.device)
        descent = Descent(net.parameters(), self.training)
        for step, batch in enumerate(self._draw(train, run), 1):
            descent.step(F.cross_entropy(net(batch.images), batch.labels))
            if step % self.training.eval_every == 0 or step == self.training.steps:
                yield net

    def _draw(self, train: TrainingSet, run: Run) -> Iterator[Batch]:
        batch_size, steps = self.training.batch_size, self.training.steps
        if self.sampling == "uniform":
            return train.shuffled(batch_size, steps)
        groups = train.labels
        if self.uses_bias_labels:
            groups = group_ids(groups, run.bias_labels())
        return train.weighted(balanced_weights(groups), batch_size, steps)
