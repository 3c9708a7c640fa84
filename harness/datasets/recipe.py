"""What a data set is before it is built: facts, and the function that builds its arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.datasets.decoding import ImageFiles
from harness.training_set import PhotoTransform, Transform


class Progress(Protocol):
    """Called now and then while something slow runs."""

    def __call__(self, description: str, done: int, total: int) -> None:
        """Reports that `done` of `total` units of `description` are finished."""


def silent(description: str, done: int, total: int) -> None:
    """The progress callback that shows nothing."""


class SplitArrays(NamedTuple):
    """One split as built, before it is stored.

    Attributes:
        images: (N, C, H, W) uint8, or the files it is decoded from when the split is stored.
        labels: (N,) int64.
        attributes: (N,) int64, the bias attribute.
        ids: (N,) int64, position of the source image in its official file.
    """

    images: NDArray[np.uint8] | ImageFiles
    labels: NDArray[np.int64]
    attributes: NDArray[np.int64]
    ids: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> "SplitArrays":
        """The split that consists of these rows."""
        return SplitArrays(
            self.images[rows], self.labels[rows], self.attributes[rows], self.ids[rows]
        )


def no_files(root: Path) -> Mapping[str, str]:
    """The provenance of a data set whose raw files all have known checksums, or none."""
    return {}


class Build(Protocol):
    """Builds the split "train" and those the harness evaluates on."""

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
        image_shape: (C, H, W) that a network reads.
        ratios: Conflict ratios, in percent, that published tables use.
        transform: How stored uint8 images become network input.
        backbones: The (architecture, initial weights) of each preset, "paper" and "quick".
        sources: Where the raw files come from, for people.
        version: Raised whenever the built arrays change, so that old ones are not used again.
        build: Makes the arrays. Equal arguments give equal arrays.
        raw_files: Path under `<root>/raw` to md5, of every raw file the arrays depend on.
        provenance: Maps the data folder to path and md5 of files whose checksum is not known
            beforehand; called at build. Images need not be listed: see `ImageFiles.digest`.
        aligned: (num_classes, num_attributes), the bias-aligned cells; empty for the identity.
        open_ratio: Whether any ratio in (0, 100] can be built, or those of `ratios` alone.
        validation: The validation splits there are.
        unbiased: Metric of the test split that counts as unbiased accuracy: "accuracy" where its
            attribute is uniform, "group_mean_accuracy" elsewhere.
        primary: Metric of the test split that published tables rank by.
        like: Data set whose hyperparameter settings and ranges apply to this one, if not its own.
    """

    name: str
    summary: str
    num_classes: int
    num_attributes: int
    image_shape: tuple[int, int, int]
    ratios: tuple[float, ...]
    transform: Transform | PhotoTransform
    backbones: Mapping[str, tuple[str, str]]
    sources: str
    version: int | str
    build: Build
    raw_files: Mapping[str, str] = field(default_factory=dict)
    provenance: Callable[[Path], Mapping[str, str]] = no_files
    aligned: tuple[tuple[bool, ...], ...] = ()
    open_ratio: bool = True
    validation: tuple[str, ...] = ("valid_biased", "valid_unbiased")
    unbiased: str = "accuracy"
    primary: str = "accuracy"
    like: str = ""

    def check_ratio(self, ratio: float) -> None:
        """Refuses a conflict ratio that cannot be built.

        Raises:
            ValueError: With the value and the published ratios.
        """
        published = ", ".join(f"{each:g}" for each in self.ratios)
        if not self.open_ratio and ratio not in self.ratios:
            raise ValueError(
                f"{self.name} exists with conflict ratio {published} percent, but got {ratio:g}."
            )
        if self.open_ratio and not 0 < ratio <= 100:
            raise ValueError(
                f"conflict ratio must lie in (0, 100] percent, but got {ratio}. "
                f"Published for {self.name}: {published}."
            )

    def chosen_ratios(self, asked: Sequence[float]) -> tuple[float, ...]:
        """Which ratios a command means: those asked for, if the data set leaves a choice.

        Raises:
            ValueError: One of them cannot be built.
        """
        if not self.open_ratio and len(self.ratios) == 1:
            return self.ratios
        usual = 1.0 if 1.0 in self.ratios or self.open_ratio else self.ratios[0]
        chosen = tuple(dict.fromkeys(asked)) or (usual,)
        for ratio in chosen:
            self.check_ratio(ratio)
        return chosen

    @property
    def settings_name(self) -> str:
        """Name under which `search_spaces` knows this data set."""
        return self.like or self.name

    def aligned_table(self) -> NDArray[np.bool_]:
        """Returns which cells are bias-aligned, (num_classes, num_attributes)."""
        if self.aligned:
            return np.array(self.aligned, dtype=np.bool_)
        return np.eye(self.num_classes, self.num_attributes, dtype=np.bool_)


class Family(NamedTuple):
    """Data sets under one name: a single one, or one per argument typed after a colon.

    Attributes:
        name: What stands before the colon.
        summary: One line for listings.
        argument: What may follow the colon, in words; empty if nothing may.
        recipe: Maps the argument, "" for none, to a recipe; raises ValueError for a wrong one.
    """

    name: str
    summary: str
    argument: str
    recipe: Callable[[str], Recipe]


def only(recipe: Recipe) -> Family:
    """A family of one."""

    def without_argument(argument: str) -> Recipe:
        if argument:
            raise ValueError(f"{recipe.name} takes no argument, but got {argument!r}")
        return recipe

    return Family(recipe.name, recipe.summary, "", without_argument)
