"""A method whose work is known to the second: it waits, then yields an untrained network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import NonNegativeFloat, PositiveFloat
from torch import nn

from harness import Method, Run, TrainingSet, tunable
from harness.nets import Backbone, build_net
from harness.space import Uniform


@dataclass(frozen=True)
class Sleeper(Method):
    """Waits."""

    name = "sleeper"
    seconds: PositiveFloat = tunable(1.0, "How long.")
    idle: NonNegativeFloat = tunable(0.5, "Something to search.", Uniform(0.0, 1.0))

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """Waits once."""
        assert len(train)  # a look at the data: the plan of a trial runs `fit` up to the first
        time.sleep(self.seconds)
        yield build_net(Backbone("mlp"), train.num_classes, train.image_shape)
