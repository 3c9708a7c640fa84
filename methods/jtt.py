"""JTT: Just Train Twice (Liu et al., ICML 2021, arXiv:2107.09044).

A first network is trained briefly by plain cross-entropy; the samples it gets wrong are its error
set. A fresh network is then trained on a training set in which those samples occur more often.

Defaults follow the authors' code on Waterbirds: SGD, samples predicted *while* the first network is
trained for an epoch (training mode, each batch before its own update) and `upweight` extra copies
of each mined sample in every epoch. DCWP's authors ran JTT on ten-class sets in another way, which
is a switch each: one pass in evaluation mode after training (`mining.predictions`) and i.i.d.
draws with weight `upweight` instead of 1 + `upweight` (`retrain.weighting`).

Departures from the authors' code:
1. Durations count steps, not epochs: the logged epoch is the one after `mining.steps` steps, and
   the second network takes `retrain.steps` steps however many copies lengthen its epochs.
2. The variant of `upweight` that balances both sets by itself is left out.
3. The first network stops after the logged epoch; in the authors' code it goes on, to no effect.
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
from harness.space import Choice, Integer, Log
from harness.training_set import Batch


@dataclass(frozen=True)
class Mining(Training):
    """How the error set is found; defaults are 60 epochs of Waterbirds."""

    steps: PositiveInt = tunable(
        4500, "Optimizer steps before the predictions that count (T).", Integer(50, 5000),
        on_request=True,
    )  # fmt: skip
    batch_size: PositiveInt = tunable(64, "Samples per step.")
    optimizer: Literal["adam", "sgd"] = tunable("sgd", "Adam, or SGD with momentum 0.9.")
    lr: PositiveFloat = tunable(1e-5, "Learning rate.", Log(1e-5, 1e-1), on_request=True)
    weight_decay: NonNegativeFloat = tunable(
        1.0, "L2 penalty on all weights.", Log(1e-6, 1.0), on_request=True
    )
    predictions: Literal["online", "eval_pass"] = tunable(
        "online",
        "online: logged along one more epoch of training; eval_pass: made in evaluation mode, "
        "under the training augmentation, without further training.",
    )


@dataclass(frozen=True)
class Retrain(Training):
    """How the second network is trained; defaults are 300 plain epochs of Waterbirds."""

    steps: PositiveInt = tunable(22_500, "Optimizer steps.")
    batch_size: PositiveInt = tunable(64, "Samples per step.")
    optimizer: Literal["adam", "sgd"] = tunable("sgd", "Adam, or SGD with momentum 0.9.")
    lr: PositiveFloat = tunable(1e-5, "Learning rate.", Log(1e-5, 1e-2))
    weight_decay: NonNegativeFloat = tunable(
        1.0, "L2 penalty on all weights.", Log(1e-6, 1.0), on_request=True
    )
    upweight: PositiveInt = tunable(
        100, "How much more often mined samples are drawn (lambda_up).", Choice((10, 20, 50, 100))
    )
    weighting: Literal["copies", "sampling"] = tunable(
        "copies",
        "copies: 1 + upweight copies of each mined sample in every shuffled epoch; sampling: i.i.d."
        " draws with weight upweight.",
    )
    eval_every: PositiveInt = tunable(500, "Steps between looks at the classifier.")


@dataclass(frozen=True)
class JTT(Method):
    """Just Train Twice: train again with the first network's errors upweighted (ICML 2021)."""

    name = "jtt"
    backbone: Backbone = Backbone()
    mining: Mining = Mining()
    retrain: Retrain = Retrain()

    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """Mines once, then trains a fresh network; only the latter is iterated."""
        mined = run.stage(mine, train, self.backbone, self.mining)  # (N,) bool
        run.audit(mined)
        config = self.retrain
        net = build_net(self.backbone, train.num_classes, train.image_shape).to(run.device)
        descent = Descent(net.parameters(), config)
        for step, batch in enumerate(draw(train, mined, config), 1):
            descent.step(F.cross_entropy(net(batch.images), batch.labels))
            if step % config.eval_every == 0 or step == config.steps:
                yield net


def mine(train: TrainingSet, backbone: Backbone, config: Mining) -> Tensor:
    """Stage: (N,) bool, the training samples that the first network gets wrong."""
    net = build_net(backbone, train.num_classes, train.image_shape).to(train.device)
    descent = Descent(net.parameters(), config)
    for batch in train.shuffled(config.batch_size, config.steps):
        descent.step(F.cross_entropy(net(batch.images), batch.labels))

    wrong = torch.zeros(len(train), dtype=torch.bool, device=train.device)
    if config.predictions == "online":
        for batch in train.shuffled(config.batch_size, -(-len(train) // config.batch_size)):
            logits = net(batch.images)
            wrong[batch.indices] = logits.argmax(1) != batch.labels
            descent.step(F.cross_entropy(logits, batch.labels))
        return wrong
    net.eval()
    with torch.inference_mode():
        for batch in train.ordered(1000, augment=True):
            wrong[batch.indices] = net(batch.images).argmax(1) != batch.labels
    return wrong


def draw(train: TrainingSet, mined: Tensor, config: Retrain) -> Iterator[Batch]:
    """Batches that lean on mined samples."""
    if config.weighting == "copies":
        copies = 1 + config.upweight * mined.long()  # (N,)
        return train.shuffled(config.batch_size, config.steps, copies=copies)
    weights = torch.where(mined, config.upweight, 1.0)  # (N,)
    return train.weighted(weights, config.batch_size, config.steps)
