"""Fixtures of the data set tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

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


@pytest.fixture(scope="session")
def generators():
    """Makes one generator per image, the same ones every time."""
    return lambda count: [np.random.default_rng((9, n)) for n in range(count)]


@pytest.fixture(scope="session")
def check(generators):
    """Compares a corruption with `reference(image / 255, column, rng)`, an image in [0, 1].

    The two round differently, which truncation turns into one grey level here and there.
    """

    def compare(corruption, images, reference, columns=(1, 2, 3, 4, 5)):
        for column in columns:
            corrupted = corruption(images, column, generators(len(images)))
            assert corrupted.dtype == np.uint8 and corrupted.shape == images.shape
            expected = np.stack(
                [
                    np.clip(reference(image / 255, column, rng), 0, 1) * 255
                    for image, rng in zip(images, generators(len(images)), strict=True)
                ]
            )
            # Away from whole numbers truncation must agree exactly.
            safe = np.abs(expected - np.rint(expected)) > 1e-6
            assert safe.any()
            np.testing.assert_array_equal(corrupted[safe], expected.astype(np.uint8)[safe])
            assert np.abs(corrupted - expected).max() <= 1 + 1e-6

    return compare


@pytest.fixture
def write_image() -> Callable[..., NDArray[np.uint8]]:
    """Writes random pixels as path (height, width) and returns them, (3, height, width)."""
    rng = np.random.default_rng(2)

    def write(path: Path, height: int = 16, width: int = 16) -> NDArray[np.uint8]:
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return pixels.transpose(2, 0, 1)

    return write
