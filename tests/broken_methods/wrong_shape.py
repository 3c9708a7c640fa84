"""A method that is wrong in one way; see test_contract.py."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from harness import Method, Run, TrainingSet
from harness.nets import Backbone, build_net
from harness.optimization import Descent, Training


@dataclass(frozen=True)
class Broken(Method):
    """Plain training."""

    name = "wrong_shape"
    backbone: Backbone = Backbone()
    training: Training = Training()

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        net = build_net(self.backbone, train.num_classes, train.image_shape)
        features = net.features
        descent = Descent(net.parameters(), self.training)
        for batch in train.shuffled(self.training.batch_size, self.training.steps):
            descent.step(F.cross_entropy(net(batch.images), batch.labels))
            yield features
