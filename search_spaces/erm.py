"""ERM: the schedule that DCWP's authors ran beside it, and one for a two-core CPU."""

from __future__ import annotations

from harness.space import Range, Settings

SPACES: dict[str, dict[str, Range]] = {}


def settings(preset: str, dataset: str, ratio: float) -> Settings:
    """What a preset changes in the defaults."""
    return dict(_PAPER if preset == "paper" else _QUICK)


# The self-consistent version of May 2022 in the history of DCWP's repository.
_PAPER: Settings = {
    "training.lr": 1e-3,
    "training.beta2": 0.99,
    "training.steps": 17_000,
    "training.decay_steps": 10_000,
    "training.decay_factor": 0.5,
}
_QUICK: Settings = {
    "training.batch_size": 128,
    "training.steps": 200,
    "training.lr": 1e-2,
    "training.beta2": 0.99,
    "training.eval_every": 50,
}
