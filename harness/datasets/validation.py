"""Which images of an official validation split make the biased and the unbiased one.

Authors of published data sets gave one validation split, whose bias is whatever they chose. The
harness wants two: one biased as the training split is, one whose attribute says nothing of the
label. Both are subsets of the official one and may share images.
"""

import numpy as np
from numpy.typing import NDArray

from harness.datasets.recipe import SplitArrays

Cell = tuple[int, int]


def validation_splits(
    official: SplitArrays, train: SplitArrays, rng: np.random.Generator
) -> dict[str, SplitArrays]:
    """Makes the two validation splits out of the official one."""
    biased = proportional(official.labels, official.attributes, train.labels, train.attributes, rng)
    unbiased = balanced(official.labels, official.attributes, rng)
    return {"valid_biased": official.take(biased), "valid_unbiased": official.take(unbiased)}


def balanced(
    labels: NDArray[np.int64], attributes: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Returns the largest subset that has equally many images of every cell there is.

    Args:
        labels: (N,) labels of the official split.
        attributes: (N,) bias attributes.
        rng: Draws which images of the larger cells are kept.

    Returns:
        Positions in the official split, ascending.

    Raises:
        ValueError: Every label has a single attribute, so that no subset is unbiased.
    """
    members = _members(labels, attributes)
    if len(members) == len(np.unique(labels)):
        raise ValueError(
            f"the {len(labels)} validation images have one bias attribute per label, so that no "
            "subset of them is unbiased"
        )
    smallest = min(len(cell) for cell in members.values())
    return _draw(members, {cell: smallest for cell in members}, rng)


def proportional(
    labels: NDArray[np.int64],
    attributes: NDArray[np.int64],
    like_labels: NDArray[np.int64],
    like_attributes: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Returns the largest subset whose cells have the shares they have in the training split.

    A subset of n has floor(n * share) images of each cell; n is the largest for which every cell
    has as many. Cells that the training split lacks are left out.

    Args:
        labels: (N,) labels of the official validation split.
        attributes: (N,) bias attributes.
        like_labels: (M,) labels of the training split.
        like_attributes: (M,) bias attributes of the training split.
        rng: Draws which images of a cell are kept.

    Returns:
        Positions in the official split, ascending.

    Raises:
        ValueError: The subset is empty, as cells are missing that are common in training.
    """
    members = _members(labels, attributes)
    wanted = {cell: len(rows) for cell, rows in _members(like_labels, like_attributes).items()}
    total = len(like_labels)
    # floor(n * count / total) <= there, solved for n in whole numbers
    size = min(
        ((len(members.get(cell, ())) + 1) * total - 1) // count for cell, count in wanted.items()
    )
    takes = {cell: size * count // total for cell, count in wanted.items()}
    takes = {cell: take for cell, take in takes.items() if take}
    if not takes:
        raise ValueError(
            f"none of the {len(labels)} validation images can be kept: they lack "
            f"(label, attribute) {sorted(wanted.keys() - members.keys())}, common in training"
        )
    return _draw(members, takes, rng)


def _members(
    labels: NDArray[np.int64], attributes: NDArray[np.int64]
) -> dict[Cell, NDArray[np.int64]]:
    """Positions by (label, attribute), in ascending order of both."""
    cells = sorted(set(zip(labels.tolist(), attributes.tolist(), strict=True)))
    return {(y, a): np.flatnonzero((labels == y) & (attributes == a)) for y, a in cells}


def _draw(
    members: dict[Cell, NDArray[np.int64]], takes: dict[Cell, int], rng: np.random.Generator
) -> NDArray[np.int64]:
    kept = [rng.choice(members[cell], take, replace=False) for cell, take in takes.items()]
    return np.sort(np.concatenate(kept))
