"""Images on disk that become one uint8 array, batch by batch, without the split in memory."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.space import one_line

BATCH = 256
THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class ImageFiles:
    """The images of a split as files, decoded when the split is stored.

    Pixels are those of Pillow: RGB without alpha, rotation flags ignored, bilinear with a low-pass
    filter where an image shrinks, as torchvision's Resize does on Pillow images.

    Args:
        paths: One file per image, in order.
        size: (H, W) of the stored images.
        fit: "exact": every file has this size; "resize": resized to it, whatever its shape;
            "centre": the shorter side is resized to that of the square, then the centre is cropped.
        margin: Where images are resized, they are first made larger by this many pixels at every
            edge, which are then cut off: 16 means Resize(256), CenterCrop(224) for a size of 224.

    Raises:
        ValueError: The size is not square, but "centre" needs it to be.
    """

    paths: tuple[Path, ...]
    size: tuple[int, int]
    fit: Literal["exact", "resize", "centre"] = "resize"
    margin: int = 0

    def __post_init__(self) -> None:
        if self.fit == "centre" and self.size[0] != self.size[1]:
            raise ValueError(f"the size of a centre crop must be square, but is {self.size}")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: NDArray[np.int64]) -> ImageFiles:
        """The files of some rows, as an array of images would give its rows."""
        return replace(self, paths=tuple(self.paths[row] for row in rows))

    def digest(self) -> str:
        """Returns the md5 of all paths, relative to where they part, and sizes in bytes."""
        shared = os.path.commonpath([path.parent for path in self.paths])
        listing = [f"{path.relative_to(shared)} {path.stat().st_size}" for path in self.paths]
        return hashlib.md5("\n".join(listing).encode(), usedforsecurity=False).hexdigest()

    def save(self, path: Path, progress: Callable[[str, int, int], None], description: str) -> None:
        """Writes what np.save would write of the decoded images, (N, 3, H, W) uint8.

        Plain writes rather than a memory map: a full disk is then an error and not a crash.

        Args:
            path: The .npy file.
            progress: Called with `description`, images done and images in all.
            description: What is decoded, for people.

        Raises:
            ValueError: A file is missing, damaged, of the wrong size or no image; names it.
        """
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(self), 3, *self.size)}
        with (
            path.open("wb") as file,
            ThreadPoolExecutor(THREADS) as pool,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(self), BATCH):
                batch = range(start, min(start + BATCH, len(self)))
                for image in pool.map(self._decode, batch):
                    file.write(image.data)
                progress(description, batch.stop, len(self))

    def _decode(self, row: int) -> NDArray[np.uint8]:
        """Returns one image, (3, H, W)."""
        path = self.paths[row]
        try:
            with Image.open(path) as image:
                pixels = np.asarray(self._fitted(image))
        except Exception as error:  # decoders raise whatever they stumble over
            reason = "no such file" if isinstance(error, FileNotFoundError) else one_line(error)
            raise ValueError(
                f"cannot read {path}, image {row + 1} of {len(self)}: {reason}"
            ) from error
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def _fitted(self, image: Image.Image) -> Image.Image:
        if image.mode[0] in "IF":
            raise ValueError(f"more than 8 bits per channel (mode {image.mode})")
        height, width = self.size
        if self.fit == "exact":
            if image.size != (width, height):
                raise ValueError("{}x{} pixels instead of {}x{}".format(*image.size, width, height))
            return image.convert("RGB")
        if self.fit == "resize":
            wide, high = width + 2 * self.margin, height + 2 * self.margin
        else:
            side, shorter = width + 2 * self.margin, min(image.size)
            wide, high = (side * each // shorter for each in image.size)
        resized = image.convert("RGB").resize((wide, high), Image.Resampling.BILINEAR)
        left, top = round((wide - width) / 2), round((high - height) / 2)
        return resized.crop((left, top, left + width, top + height))
