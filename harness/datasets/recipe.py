"""What a data set is before it is built: facts, and the function that builds its arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.training_set import Transform


class Progress(Protocol):
    """Called now and then while something slow runs."""

    def __call__(self, description: str, done: int, total: int) -> None:
        """Reports that `done` of `total` units of `description` are finished."""


def silent(description: str, done: int, total: int) -> None:
    """The progress callback that shows nothing."""


class SplitArrays(NamedTuple):
    """One split as built, before it is stored.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        attributes: (N,) int64, the bias attribute.
        ids: (N,) int64, position of the source image in its official file.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    attributes: NDArray[np.int64]
    ids: NDArray[np.int64]


class Build(Protocol):
    """Builds the splits train, valid_biased, valid_unbiased and test."""

    def __call__(
        self, root: Path, ratio: float, seed: int, progress: Progress
    ) -> dict[str, SplitArrays]:
        """Builds the splits from raw files under `root`; `ratio` is in percent."""


@dataclass(frozen=True)
class Recipe:
    """Everything the harness knows about a data set, and how to build it.

    Attributes:
        name: What the user types.
        summary: One line for listings.
        num_classes: Number of labels.
        num_attributes: Number of bias attribute values.
        image_shape: (C, H, W).
        ratios: Conflict ratios, in percent, that published tables use. Any other ratio builds too.
        transform: How stored uint8 images become network input.
        backbones: The (architecture, initial weights) of each preset, "paper" and "quick".
        sources: Where the raw files come from, for people.
        version: Raised whenever the built arrays change, so that old ones are not used again.
        build: Makes the arrays. Equal arguments give equal arrays.
        raw_files: Path under `<root>/raw` to md5, of every raw file the arrays depend on.
        aligned: (num_classes, num_attributes), the bias-aligned cells; empty for the identity.
    """

    name: str
    summary: str
    num_classes: int
    num_attributes: int
    image_shape: tuple[int, int, int]
    ratios: tuple[float, ...]
    transform: Transform
    backbones: Mapping[str, tuple[str, str]]
    sources: str
    version: int
    build: Build
    raw_files: Mapping[str, str] = field(default_factory=dict)
    aligned: tuple[tuple[bool, ...], ...] = ()

    def check_ratio(self, ratio: float) -> None:
        """Refuses a conflict ratio outside (0, 100] percent.

        Raises:
            ValueError: With the value and the published ratios.
        """
        if not 0 < ratio <= 100:
            published = ", ".join(f"{each:g}" for each in self.ratios)
            raise ValueError(
                f"conflict ratio must lie in (0, 100] percent, but got {ratio}. "
                f"Published for {self.name}: {published}."
            )

    def aligned_table(self) -> NDArray[np.bool_]:
        """Returns which cells are bias-aligned, (num_classes, num_attributes)."""
        if self.aligned:
            return np.array(self.aligned, dtype=np.bool_)
        return np.eye(self.num_classes, self.num_attributes, dtype=np.bool_)
