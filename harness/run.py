"""Run: everything a method may ask of the harness while it fits."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.stages import StageStore, compute_stage, digest, stage_key
from harness.training_set import BiasedDataset, TrainingSet


def arithmetic(device: torch.device, amp: bool) -> torch.autocast:
    """The context that everything a trial computes runs in: float32, or mixed with bfloat16.

    None of the methods' authors used mixed precision.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=amp)


class StageUse(NamedTuple):
    """One stage as a trial used it."""

    name: str
    key: str
    seconds: float
    reused: bool


class Run:
    """Memoised stages, logging and diagnostics for one trial and seed.

    Args:
        seed: The trial's seed; stages derive their own random streams from it.
        device: Where networks and batches live.
        store: Where stage results are kept; None computes every stage.
        dataset: Holds the hidden bias labels that mining is audited against.
        uses_bias_labels: Whether the method declared that it trains with bias labels.
        enter: Told the name of each stage as it begins.
    """

    def __init__(
        self,
        seed: int,
        device: torch.device,
        store: StageStore | None,
        dataset: BiasedDataset,
        uses_bias_labels: bool = False,
        enter: Callable[[str], None] = lambda stage: None,
    ) -> None:
        self.seed = seed
        self.device = device
        self.metrics: dict[str, float] = {}
        self.stages: list[StageUse] = []
        self.seconds_in_stages = 0.0  # wall time here, whether computing, waiting or reading
        self._store = store
        self._dataset = dataset
        self._uses_bias_labels = uses_bias_labels
        self._enter = enter

    def stage(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Returns ``function(*arguments)``, computed at most once per store.

        The function must be module-level and is keyed by its source, the trial's seed and the
        content of its arguments: it cannot read a hyperparameter that is missing from its key.
        Results must be tensors and plain data.

        Raises:
            TypeError: The function or an argument cannot be part of a key.
            ValueError: The function modified an argument in place, which reuse would not do.
            FloatingPointError: The result is not finite.
        """
        started = time.perf_counter()
        digests = [digest(argument) for argument in arguments]
        key = stage_key(function, digests, self.seed, self.device.type)

        def compute() -> Any:
            value = function(*arguments)
            for position, argument in enumerate(arguments):
                if digest(argument) != digests[position]:
                    raise ValueError(
                        f"stage {key.function} modified its argument {position} in place: copy it"
                    )
            return value

        self._enter(function.__name__)
        if self._store is None:
            result = compute_stage(key, compute, self.device)
        else:
            result = self._store.fetch(key, compute, self.device)
        self._enter("fit")
        self.stages.append(StageUse(function.__name__, key.key, result.seconds, result.reused))
        self.seconds_in_stages += time.perf_counter() - started
        return result.value

    def log(self, **metrics: float) -> None:
        """Records scalars of this trial, such as the density of a pruned network."""
        self.metrics |= {name: float(value) for name, value in metrics.items()}

    def audit(self, mined: Tensor, scores: Tensor | None = None) -> None:
        """Compares a mined set with the hidden bias-conflicting samples, for reports only.

        Warns when the set is empty or holds more than half of the data: what leans on it is then
        plain training.

        Args:
            mined: (N,) bool, True where the method believes a sample to be bias-conflicting.
            scores: (N,) the belief it was thresholded from, if there is one; adds the average
                precision of the ranking.
        """
        truth = self._dataset.conflicting().to(mined.device)
        hits, size = int((mined & truth).sum()), int(mined.sum())
        self.log(
            **{
                "mining/size": size,
                "mining/share": size / len(mined),
                "mining/precision": hits / size if size else float("nan"),
                "mining/recall": hits / max(int(truth.sum()), 1),
            }
        )
        if scores is not None:
            self.log(**{"mining/average_precision": _average_precision(scores, truth)})
        if not size:
            warnings.warn("the mined set is empty", stacklevel=2)
        elif size > len(mined) / 2:
            warnings.warn(f"the mined set holds {size / len(mined):.0%} of the data", stacklevel=2)

    def conflicting(self) -> Tensor:
        """(N,) bool, the true bias-conflicting samples, for methods that declare bias labels.

        Raises:
            PermissionError: The method did not declare ``uses_bias_labels``.
        """
        self._open_bias_labels()
        return self._dataset.conflicting().to(self.device)

    def bias_labels(self) -> Tensor:
        """(N,) int64, the bias attribute of each training sample, for methods that declare it.

        Raises:
            PermissionError: The method did not declare ``uses_bias_labels``.
        """
        self._open_bias_labels()
        return self._dataset.train.attributes.to(self.device)

    def validation(self, split: str) -> tuple[TrainingSet, Tensor]:
        """A validation split and its (M,) bias attributes, for methods that declare bias labels.

        Args:
            split: "valid_biased" or "valid_unbiased".

        Raises:
            PermissionError: The method did not declare ``uses_bias_labels``, or asks for the test
                split.
        """
        self._open_bias_labels()
        if not split.startswith("valid_"):
            raise PermissionError(f"split {split!r} is closed to every method")
        held_out = TrainingSet(self._dataset, self.device, split=split)
        return held_out, self._dataset.evaluation[split].attributes.to(self.device)

    def _open_bias_labels(self) -> None:
        if not self._uses_bias_labels:
            raise PermissionError("bias labels are closed to a method that does not declare them")


def _average_precision(scores: Tensor, truth: Tensor) -> float:
    """Mean over the true samples of the precision at their rank, highest score first."""
    ranked = truth[scores.argsort(descending=True, stable=True)]
    precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1, device=ranked.device)
    return float(precision[ranked].mean()) if ranked.any() else float("nan")
