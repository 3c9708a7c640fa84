"""The file that `harness new-method` writes: a complete method to change."""

from __future__ import annotations


def skeleton(name: str) -> str:
    """Source of a method called `name` that passes `harness check`."""
    return _SKELETON.replace("NAME", name).replace("CLASS", name.title().replace("_", ""))


_SKELETON = '''"""CLASS: what it does (authors, venue, arXiv).

Departures from the authors' code: none yet.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import Method, Run, TrainingSet, tunable
from harness.losses import gce
from harness.nets import Backbone, build_net
from harness.optimization import Descent, Training
from harness.space import Log


@dataclass(frozen=True)
class CLASS(Method):
    """One line for `harness methods`."""

    name = "NAME"
    # The harness fills the backbone from the data set and preset.
    backbone: Backbone = Backbone()
    mining: Training = Training(steps=200, optimizer="sgd", lr=0.1)
    training: Training = Training(steps=400)
    # Default, documentation and search range of a hyperparameter stand in one place.
    upweight: float = tunable(50.0, "Sampling weight of mined samples.", Log(5.0, 200.0))

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        # A stage is computed once for all trials that call it with equal arguments.
        mined = run.stage(mine, train, self.backbone, self.mining)  # (N,) bool
        run.audit(mined)  # precision and recall against the hidden bias labels, for reports
        weights = torch.where(mined, self.upweight, 1.0)  # (N,)

        net = build_net(self.backbone, train.num_classes, train.image_shape).to(run.device)
        descent = Descent(net.parameters(), self.training)
        batches = train.weighted(weights, self.training.batch_size, self.training.steps)
        for step, batch in enumerate(batches, 1):
            descent.step(F.cross_entropy(net(batch.images), batch.labels))
            if step % 100 == 0 or step == self.training.steps:
                yield net  # the harness evaluates it; the last one is the result


def mine(train: TrainingSet, backbone: Backbone, config: Training) -> Tensor:
    """(N,) bool, the samples that a network trained with GCE gets wrong."""
    net = build_net(backbone, train.num_classes, train.image_shape).to(train.device)
    descent = Descent(net.parameters(), config)
    for batch in train.shuffled(config.batch_size, config.steps):
        descent.step(gce(net(batch.images), batch.labels).mean())
    net.eval()
    with torch.inference_mode():
        batches = train.ordered(1000)
        wrong = [net(batch.images).argmax(1) != batch.labels for batch in batches]
    return torch.cat(wrong)
'''
