"""ERM: empirical risk minimisation, the vanilla baseline.

Departures: none; the schedule beside DCWP's numbers is that of its authors (17,000 steps of Adam at
1e-3 with betas 0.9 and 0.99 and one halving after 10,000), see `search_spaces/erm.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn

from harness import Method, Run, TrainingSet, tunable
from harness.nets import Backbone, build_net
from harness.optimization import Descent, Training
from harness.space import Log


@dataclass(frozen=True)
class ErmTraining(Training):
    """ERM has one phase, so its learning rate and weight decay are searched by default."""

    lr: PositiveFloat = tunable(1e-3, "Learning rate.", Log(1e-4, 1e-1))
    weight_decay: NonNegativeFloat = tunable(0.0, "L2 penalty on all weights.", Log(1e-6, 1e-2))
    eval_every: PositiveInt = tunable(500, "Steps between looks at the classifier.")


@dataclass(frozen=True)
class ERM(Method):
    """Empirical risk minimisation: mean cross-entropy on shuffled batches."""

    name = "erm"
    backbone: Backbone = Backbone()
    training: ErmTraining = ErmTraining()

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """Trains one network; stopped early it is simply trained for less."""
        net = build_net(self.backbone, train.num_classes, train.image_shape).to(run.device)
        descent = Descent(net.parameters(), self.training)
        batches = train.shuffled(self.training.batch_size, self.training.steps)
        for step, batch in enumerate(batches, 1):
            descent.step(F.cross_entropy(net(batch.images), batch.labels))
            if step % self.training.eval_every == 0 or step == self.training.steps:
                yield net
