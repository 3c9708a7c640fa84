"""ERM: the schedule that DCWP's authors ran beside it, and one for a two-core CPU."""

from __future__ import annotations

from harness.space import Range, Settings

SPACES: dict[str, dict[str, Range]] = {}


def settings(preset: str, dataset: str, ratio: float) -> Settings:
    """What a preset changes in the defaults."""
    if preset == "paper":
        return dict(_PAPER)
    return _QUICK | _QUICK_BY_DATASET.get(dataset, {})


# The self-consistent version of May 2022 in the history of DCWP's repository.
_PAPER: Settings = {
    "training.lr": 1e-3,
    "training.beta2": 0.99,
    "training.steps": 17_000,
    "training.decay_steps": 10_000,
    "training.decay_factor": 0.5,
}
# As many weight updates as DCWP's classifier gets under this preset (pre-training and fine-tuning).
_QUICK: Settings = {
    "training.batch_size": 128,
    "training.steps": 350,
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
