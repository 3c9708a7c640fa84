"""Which image gets which bias attribute."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Draw = Callable[[NDArray[np.int64], np.random.Generator], NDArray[np.int64]]


def uniform_over_all(num_attributes: int) -> Draw:
    """Draws from every attribute, the label's own included (Coloured MNIST)."""
    return lambda labels, rng: rng.integers(num_attributes, size=len(labels))


def uniform_over_others(num_attributes: int) -> Draw:
    """Draws from every attribute but the label's own (Corrupted CIFAR-10)."""
    return lambda labels, rng: (
        (labels + rng.integers(1, num_attributes, size=len(labels))) % num_attributes
    )


def assign(
    labels: NDArray[np.int64],
    ratio: float,
    draw: Draw,
    rng: np.random.Generator,
    conflicts: int | None = None,
) -> NDArray[np.int64]:
    """Gives each image its aligned attribute, or with probability `ratio`/100 a drawn one.

    An image conflicts when its own threshold lies below the ratio. Thresholds and draws do not
    depend on the ratio, so the conflicts of a smaller ratio are a subset of those of a larger one.

    Args:
        labels: (N,) labels; the aligned attribute is the label.
        ratio: Probability of a redraw, in percent.
        draw: Attribute that an image takes when it is redrawn.
        rng: Source of the thresholds and draws; the same state for every ratio.
        conflicts: If given, exactly this many images conflict: those with the smallest
            thresholds, which is the random choice that keeps the ratios nested.

    Returns:
        (N,) attributes.
    """
    threshold = rng.random(len(labels))
    drawn = draw(labels, rng)
    redrawn = threshold < ratio / 100
    if conflicts is not None:
        candidates = np.flatnonzero(drawn != labels)
        redrawn = np.zeros(len(labels), dtype=np.bool_)
        redrawn[candidates[np.argsort(threshold[candidates], kind="stable")[:conflicts]]] = True
    return np.where(redrawn, drawn, labels)
