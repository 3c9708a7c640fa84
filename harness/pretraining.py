"""Stages that methods have in common: the network before training, and after plain training.

A stage is known by its function, so methods that call these with equal arguments share the results.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from harness.nets import Backbone, Net, build_net
from harness.optimization import Descent, Training, state
from harness.training_set import TrainingSet


def initialise(train: TrainingSet, backbone: Backbone) -> dict[str, Tensor]:
    """Stage: the classifier before training, to train from and to rewind to."""
    return state(build_net(backbone, train.num_classes, train.image_shape))


def pretrain(
    train: TrainingSet, backbone: Backbone, config: Training, initial: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Stage: the dense classifier under plain cross-entropy on shuffled batches."""
    net = load(train, backbone, initial)
    descent = Descent(net.parameters(), config)
    for batch in train.shuffled(config.batch_size, config.steps):
        descent.step(F.cross_entropy(net(batch.images), batch.labels))
    return state(net)


def load(train: TrainingSet, backbone: Backbone, weights: dict[str, Tensor]) -> Net:
    """A network with given weights, which must not be fetched again if they were pre-trained."""
    net = build_net(Backbone(backbone.arch), train.num_classes, train.image_shape)
    net.load_state_dict(weights)
    return net.to(train.device)
