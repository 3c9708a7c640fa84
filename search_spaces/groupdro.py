"""GroupDRO: a schedule for a two-core CPU.

Its authors have no setting for these data sets: `paper` is their Waterbirds setting, the defaults.
`quick` uses Adam, for SGD at such learning rates does little in so few steps.
"""

from __future__ import annotations

from harness.space import Range, Settings

SPACES: dict[str, dict[str, Range]] = {}


def settings(preset: str, dataset: str, ratio: float) -> Settings:
    """What a preset changes in the defaults."""
    if preset == "paper":
        return {}
    return _QUICK | _QUICK_BY_DATASET.get(dataset, {})


_QUICK: Settings = {
    "training.steps": 350,
    "training.optimizer": "adam",
    "training.lr": 1e-2,
    "training.beta2": 0.99,
    "training.eval_every": 175,
}
_QUICK_BY_DATASET: dict[str, Settings] = {
    "cifar10c": {
        "training.batch_size": 64,
        "training.steps": 1300,
        "training.lr": 2e-3,
        "training.eval_every": 650,
    },
}
