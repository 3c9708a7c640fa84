"""An evaluation of a split against training on as many images, on batches that are ready."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from harness import datasets
from harness.evaluation import evaluate
from harness.nets import Backbone, build_net
from harness.optimization import Training
from harness.training_set import GroupedSplit
from tests.benchmarks.trials import bare_step


@pytest.mark.parametrize(("arch", "dataset"), [("cnn", "cmnist"), ("resnet18", "cifar10c")])
def test_evaluation(arch, dataset, sizes, compare):
    recipe = datasets.get(dataset)
    steps = 2 if sizes.tiny else 10
    size, count = sizes.batch_size, steps * sizes.batch_size
    labels = torch.arange(count) % recipe.num_classes
    images = torch.randint(256, (count, *recipe.image_shape), dtype=torch.uint8)
    split = GroupedSplit(images, labels, labels)
    aligned = torch.from_numpy(recipe.aligned_table())
    ready = recipe.transform(images[:size], augment=False)
    net = build_net(Backbone(arch), recipe.num_classes, recipe.image_shape)
    step = bare_step(
        net.parameters(), Training(), lambda: F.cross_entropy(net(ready), labels[:size])
    )
    compare(
        f"evaluation of {count} images, {arch}: pass / {steps} bare steps",
        lambda: evaluate(net, split, recipe.transform, aligned),
        lambda: [step() for _ in range(steps)],
        aim=1,
    )
