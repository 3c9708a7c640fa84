"""A method that is wrong in one way; see test_contract.py."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import Method, Run, TrainingSet
from harness.nets import Backbone, build_net
from harness.optimization import Descent, Training


@dataclass(frozen=True)
class Broken(Method):
    """Plain training."""

    name = "leaky_stage"
    backbone: Backbone = Backbone()
    training: Training = Training()

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        net = build_net(self.backbone, train.num_classes, train.image_shape)
        with torch.no_grad():
            net.head.weight += run.stage(count, train)
        descent = Descent(net.parameters(), self.training)
        for batch in train.shuffled(self.training.batch_size, self.training.steps):
            descent.step(F.cross_entropy(net(batch.images), batch.labels))
            yield net


CALLS: list[int] = []


def count(train: TrainingSet) -> Tensor:
    """Depends on how often it was called, which no key knows."""
    CALLS.append(0)
    return torch.tensor(float(len(CALLS)))
