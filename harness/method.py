"""The contract of a debiasing method: a frozen dataclass of hyperparameters with one `fit`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from torch import nn

if TYPE_CHECKING:
    from harness.run import Run
    from harness.training_set import TrainingSet


class Method(ABC):
    """Base of every method; subclasses are ``@dataclass(frozen=True)`` and set `name`.

    The first line of a subclass's docstring is what `harness methods` lists.
    """

    name: ClassVar[str]

    @property
    def uses_bias_labels(self) -> bool:
        """Whether training reads bias labels; may depend on hyperparameters. Shown on reports."""
        return False

    @abstractmethod
    def fit(self, train: TrainingSet, run: Run) -> Iterator[nn.Module]:
        """Trains, yielding the current classifier whenever it is worth looking at.

        The harness evaluates what is yielded (without disturbing mode, buffers or randomness) and
        may stop iterating at any yield. The last yielded network is the method's result.

        To plan, the harness also runs it up to its first look at data, in the process that hands
        out the work: nothing slow belongs before that.

        Args:
            train: Images and labels; draws augmented batches on the training device.
            run: Memoised stages, logging, and the network factory's random state.
        """
