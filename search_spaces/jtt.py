"""JTT: the schedule of DCWP's authors for ten classes, and one for a two-core CPU.

JTT's own authors have no setting for these data sets; what follows was run by the authors of DCWP,
who mine in one pass of evaluation mode and sample with weight lambda_up.
"""

from __future__ import annotations

from harness.space import Range, Settings

SPACES: dict[str, dict[str, Range]] = {}

_UPWEIGHT = {0.5: 100, 1.0: 50, 2.0: 20, 5.0: 10}  # lambda_up by ratio


def settings(preset: str, dataset: str, ratio: float) -> Settings:
    """What a preset changes in the defaults; the nearest published ratio decides the upweight."""
    nearest = min(_UPWEIGHT, key=lambda published: abs(published - ratio))
    common = _COMMON | {"retrain.upweight": _UPWEIGHT[nearest]}
    if preset == "paper":
        return common | _PAPER | _PAPER_BY_DATASET.get(dataset, {})
    return common | _QUICK | _QUICK_BY_DATASET.get(dataset, {})


_COMMON: Settings = {
    "mining.optimizer": "adam",
    "mining.beta2": 0.99,
    "mining.weight_decay": 0.0,
    "mining.predictions": "eval_pass",
    "retrain.optimizer": "adam",
    "retrain.beta2": 0.99,
    "retrain.weight_decay": 0.0,
    "retrain.weighting": "sampling",
}
# A script in the history of DCWP's repository, written for Colored MNIST.
_PAPER: Settings = {
    "mining.batch_size": 256,
    "mining.steps": 2000,
    "mining.lr": 1e-2,
    "retrain.batch_size": 256,
    "retrain.steps": 10_000,
    "retrain.lr": 1e-3,
}
_PAPER_BY_DATASET: dict[str, Settings] = {
    # No script exists: the learning rate is that of their plain network, mining stops in the
    # middle of the steps that they tried for DCWP.
    "cifar10c": {"mining.lr": 1e-3, "mining.steps": 1000},
}
_QUICK: Settings = {
    "mining.batch_size": 128,
    "mining.steps": 100,
    "mining.lr": 1e-2,
    "retrain.batch_size": 128,
    "retrain.steps": 300,
    "retrain.lr": 1e-2,
    "retrain.eval_every": 100,
}
_QUICK_BY_DATASET: dict[str, Settings] = {
    "cifar10c": {
        "mining.batch_size": 64,
        "mining.steps": 300,
        "mining.lr": 2e-3,
        "retrain.batch_size": 64,
        "retrain.steps": 1000,
        "retrain.lr": 2e-3,
        "retrain.eval_every": 500,
    },
}
