"""What a trial would compute, found out by running `fit` up to its first look at real data.

Stage calls are answered with a stand-in that carries the stage's key. A `fit` that passes stage
results on untouched is planned to its last stage; one that reads a result ends the plan there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from harness.datasets import Recipe
from harness.method import Method
from harness.run import Run
from harness.space import Range, Settings, build
from harness.stages import StageKey, StageStore, digest, stage_key
from harness.training_set import Batch, TrainingSet, training_fingerprint


class PlannedStage(NamedTuple):
    """A stage that a trial calls."""

    name: str
    key: StageKey
    stored: bool


class _PlanEndsError(Exception):
    """The method wants real data."""


class _StandIn:
    """In place of a stage result; looking at it ends the plan."""

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def _end(*_: Any) -> NoReturn:  # as operator and as class method
        raise _PlanEndsError

    # Python looks operators up on the class, so __getattr__ does not cover them.
    __getattr__ = __getitem__ = __iter__ = __len__ = __contains__ = __array__ = _end
    __bool__ = __int__ = __float__ = __index__ = __neg__ = __invert__ = _end
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _end
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _end
    __rtruediv__ = __matmul__ = __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _end
    __torch_function__: Any = classmethod(_end)


class _PlannedSet(TrainingSet):
    """A training set without images."""

    def __init__(self, recipe: Recipe, fingerprint: str) -> None:
        self.device = torch.device("cpu")
        self.num_classes = recipe.num_classes
        self.image_shape = recipe.image_shape
        self.fingerprint = training_fingerprint(fingerprint, recipe.transform)

    def __len__(self) -> int:
        raise _PlanEndsError

    def __getattr__(self, name: str) -> NoReturn:
        raise _PlanEndsError

    def _draw(self, indices: Iterator[Tensor], steps: int) -> Iterator[Batch]:
        raise _PlanEndsError


class _PlannedRun(Run):
    def __init__(self, seed: int, device: torch.device, store: StageStore) -> None:
        self.seed, self.device, self.store = seed, device, store
        self.metrics: dict[str, float] = {}
        self.planned: list[PlannedStage] = []

    def stage(self, function: Callable[..., Any], *arguments: Any) -> Any:
        digests = [a.digest if isinstance(a, _StandIn) else digest(a) for a in arguments]
        key = stage_key(function, digests, self.seed, self.device.type)
        self.planned.append(PlannedStage(function.__name__, key, self.store.holds(key)))
        return _StandIn(self._known_digest(key))

    def audit(self, mined: Tensor, scores: Tensor | None = None) -> None:
        return

    def conflicting(self) -> Tensor:
        raise _PlanEndsError

    def bias_labels(self) -> Tensor:
        raise _PlanEndsError

    def validation(self, split: str) -> tuple[TrainingSet, Tensor]:
        raise _PlanEndsError

    def _known_digest(self, key: StageKey) -> str:
        """Of the stored result, so that keys downstream are the true ones; else a placeholder."""
        return self.store.stored_digest(key) or f"result of {key.key}"


def plan(
    method: type[Method],
    settings: Settings,
    recipe: Recipe,
    fingerprint: str,
    seed: int,
    device: torch.device,
    store: StageStore,
) -> list[PlannedStage]:
    """The stages of one trial, in order, as far as they can be told without training."""
    run = _PlannedRun(seed, device, store)
    with torch.random.fork_rng():
        instance = build(method, settings)
        # An error of the method's own ends the plan, too: it comes again in the trial and is a
        # record there.
        with suppress(Exception):
            next(instance.fit(_PlannedSet(recipe, fingerprint), run), None)
    return run.planned


def shared_stages(
    plan_of: Callable[[Settings], list[PlannedStage]], base: Settings, space: dict[str, Range]
) -> dict[str, list[str]]:
    """Stage name -> the searched hyperparameters that make it differ between trials.

    A stage with an empty list is computed once for the whole search.
    """
    before = plan_of(base)
    causes: dict[str, list[str]] = {stage.name: [] for stage in before}
    for name, search in space.items():
        moved = next((v for v in search.grid() if v != base[name]), base[name])
        after = {stage.key.key for stage in plan_of(base | {name: moved})}
        for stage in before:
            if stage.key.key not in after and name not in causes[stage.name]:
                causes[stage.name].append(name)
    return causes
