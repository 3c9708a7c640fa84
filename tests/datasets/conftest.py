"""Fixtures of the data set tests."""

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.datasets import default_root, sources
from harness.datasets.recipe import silent


@pytest.fixture(scope="session")
def cifar10() -> sources.Labelled:
    return sources.cifar10(default_root(), silent)


@pytest.fixture(scope="session")
def mnist() -> sources.Labelled:
    return sources.mnist(default_root(), silent)


@pytest.fixture(scope="session")
def frost_photos() -> list[NDArray[np.uint8]]:
    return sources.frost_photos(default_root(), silent)


@pytest.fixture(scope="session")
def images() -> NDArray[np.uint8]:
    """Eight (32, 32, 3) images: gradients, noise, black, white, grey."""
    rng = np.random.default_rng(0)
    row, col = np.mgrid[:32, :32]
    gradient = np.stack([8 * row, 8 * col, 255 - 4 * row - 4 * col], -1)
    made = [gradient, gradient[::-1], gradient // 3, *rng.integers(0, 256, (2, 32, 32, 3))]
    made += [np.full((32, 32, 3), level) for level in (0, 255, 77)]
    return np.stack(made).astype(np.uint8)


@pytest.fixture(scope="session")
def photos() -> list[NDArray[np.uint8]]:
    """Two stand-ins for the frost photos, of different sizes."""
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((315, 560, 3), (350, 527, 3))]
