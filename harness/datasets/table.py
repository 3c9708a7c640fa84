"""Images of one's own that a CSV or Parquet file lists, as `table:FILE`.

The columns are path (relative to the file's folder), label, attribute and split. Labels and
attributes may be texts or numbers: they are numbered in sorted order, whole numbers by value.
Splits are train, test and valid, of which the two validation splits are drawn, or valid_biased and
valid_unbiased themselves, which go before what `valid` would give.

The bias-aligned cell of a label is the attribute that most of its training images have, the lowest
of several; the share of the other training images is the conflict ratio. All images are resized to
the size of the first training image. Rows are counted from 1, without the header.
"""

import functools
import hashlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.csv_file import read_columns
from harness.datasets.decoding import ImageFiles
from harness.datasets.folder import balances, draw_unbiased, size_of
from harness.datasets.published import BACKBONES, md5_of
from harness.datasets.recipe import Family, Progress, Recipe, SplitArrays
from harness.datasets.validation import proportional
from harness.space import one_line
from harness.training_set import Transform

COLUMNS = ("path", "label", "attribute", "split")
SPLITS = ("train", "valid", "valid_biased", "valid_unbiased", "test")


@dataclass(frozen=True)
class _Table:
    """The rows of a table, checked.

    Attributes:
        images: (N,) files, none of them outside of the table's folder.
        labels: (N,) int64.
        attributes: (N,) int64.
        rows: Positions by split, which may be none.
        version: Digest of the table and the sizes of its images in bytes.
    """

    images: tuple[Path, ...]
    labels: NDArray[np.int64]
    attributes: NDArray[np.int64]
    rows: Mapping[str, NDArray[np.int64]]
    version: str

    def cells(self, split: str) -> NDArray[np.int64]:
        """Label and attribute of the images of a split, (M, 2)."""
        return np.stack([self.labels, self.attributes], axis=1)[self.rows[split]]

    def training_groups(self) -> NDArray[np.int64]:
        """Training images by label and attribute."""
        counts = np.zeros((self.labels.max() + 1, self.attributes.max() + 1), dtype=np.int64)
        np.add.at(counts, tuple(self.cells("train").T), 1)
        return counts


def _read(path: Path) -> _Table:
    """Reads and checks a table.

    Raises:
        ValueError: Something is wrong; says in which row.
    """
    columns = _columns(path)
    for row, split in enumerate(columns["split"], 1):
        if split not in SPLITS:
            raise ValueError(
                f"{path}, row {row}: the split must be one of {', '.join(SPLITS)}, but is {split!r}"
            )
    rows = {split: np.flatnonzero(np.array(columns["split"]) == split) for split in SPLITS}
    for wanted in (("train",), ("test",), ("valid", "valid_biased")):
        if not any(rows[split].size for split in wanted):
            raise ValueError(f"{path}: no row has the split {' or '.join(wanted)}")
    labels, attributes = _numbered(columns["label"]), _numbered(columns["attribute"])
    untrained = ~np.isin(labels, labels[rows["train"]])
    if untrained.any():
        row = int(untrained.argmax())
        raise ValueError(
            f"{path}, row {row + 1}: no training image has the label {columns['label'][row]!r}"
        )
    images, sizes = _locate(path, columns["path"])
    digest = hashlib.sha256(path.read_bytes() + repr(sizes).encode())
    return _Table(images, labels, attributes, rows, digest.hexdigest()[:12])


def _columns(path: Path) -> dict[str, list[str]]:
    """Reads the four columns as text."""
    import pandas as pd  # takes a while, and no other data set needs it

    if not path.is_file():
        raise ValueError(f"{path} is not a file; table:FILE reads a .csv or .parquet file")
    if path.suffix == ".csv":
        # Texts such as "None" are values, unlike what pandas makes of them by default.
        frame = pd.DataFrame(read_columns(path).cells, dtype=object)
        frame = frame.where(~frame.isin(["", "nan", "NaN"]))
    elif path.suffix == ".parquet":
        try:
            frame = pd.read_parquet(path, engine="pyarrow")
        except Exception as error:  # of a damaged file, the decoder raises whatever it meets
            raise ValueError(f"cannot read {path}: {one_line(error)}") from None
    else:
        raise ValueError(f"cannot read {path}: the name must end in .csv or .parquet")
    absent = [name for name in COLUMNS if name not in frame]
    if absent:
        raise ValueError(
            f"{path} lacks the column {', '.join(absent)}; it has {', '.join(map(str, frame))}"
        )
    for name in COLUMNS:
        if frame[name].ndim > 1:
            raise ValueError(f"{path} has two columns {name}: rename or delete one")
        empty = np.flatnonzero(frame[name].isna())
        if empty.size:
            raise ValueError(f"{path}, row {empty[0] + 1}: no {name}")
    return {name: frame[name].astype(str).tolist() for name in COLUMNS}


def _numbered(values: Sequence[str]) -> NDArray[np.int64]:
    """Positions of values among the sorted ones, (N,)."""
    # Python's own whole numbers: numpy makes floats of long ones, which may be equal.
    whole = all(re.fullmatch(r"-?[0-9]{1,99}", value) for value in values)
    order = sorted(set(map(int, values))) if whole else sorted(set(values))
    position = {value: number for number, value in enumerate(order)}
    return np.array([position[int(v) if whole else v] for v in values], dtype=np.int64)


def _locate(table: Path, names: Sequence[str]) -> tuple[tuple[Path, ...], list[int]]:
    """Finds the images and their sizes in bytes.

    Raises:
        ValueError: One is missing, or lies outside of the table's folder; says in which row.
    """
    resolved = functools.cache(os.path.realpath)  # slow, but folders are fewer than images
    home = os.path.join(resolved(str(table.parent)), "")
    images, sizes = [], []
    for row, name in enumerate(names, 1):
        if "\0" in name:
            raise ValueError(f"{table}, row {row}: {name!r} names no file")
        folder, file = os.path.split(os.path.join(table.parent, name))
        image = os.path.join(resolved(folder), file)
        if os.path.islink(image):
            image = os.path.realpath(image)
        if not image.startswith(home):
            raise ValueError(f"{table}, row {row}: {name!r} lies outside of the table's folder")
        try:
            status = os.stat(image)
        except OSError as error:
            raise ValueError(f"{table}, row {row}: {name!r}: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{table}, row {row}: {name!r} is not a file")
        images.append(Path(image))
        sizes.append(status.st_size)
    return tuple(images), sizes


def _recipe(argument: str) -> Recipe:
    if not argument:
        raise ValueError("table needs a file: table:FILE.csv or table:FILE.parquet")
    return recipe_of(Path(os.path.abspath(os.path.expanduser(argument))))


@functools.cache
def recipe_of(path: Path) -> Recipe:
    """The recipe of a table as a process first finds it: every trial asks, and reading is slow."""
    table = _read(path)
    groups = table.training_groups()
    aligned = np.zeros(groups.shape, dtype=np.bool_)
    aligned[np.arange(len(groups)), groups.argmax(1)] = True
    size = size_of(table.images[table.rows["train"][0]])
    unbiased = table.rows["valid_unbiased"].size or balances(map(tuple, table.cells("valid")))
    validation = ("valid_biased", "valid_unbiased") if unbiased else ("valid_biased",)

    def build(root: Path, ratio: float, seed: int, progress: Progress) -> dict[str, SplitArrays]:
        images = ImageFiles(table.images, size)
        ids = np.arange(len(table.images))
        whole = SplitArrays(images, table.labels, table.attributes, ids)
        splits = {split: whole.take(rows) for split, rows in table.rows.items() if rows.size}
        train, valid = splits["train"], splits.get("valid")
        if valid and "valid_biased" not in splits:
            cells = valid.labels, valid.attributes, train.labels, train.attributes
            kept = proportional(*cells, np.random.default_rng(seed))
            splits["valid_biased"] = valid.take(kept)
        if valid and "valid_unbiased" not in splits and unbiased:
            splits["valid_unbiased"] = draw_unbiased(valid, seed, path)
        return {split: splits[split] for split in ("train", *validation, "test")}

    conflicting = 100 * groups[~aligned].sum() / groups.sum()
    return Recipe(
        name=f"table:{path}",
        summary="Images that a table lists.",
        num_classes=groups.shape[0],
        num_attributes=groups.shape[1],
        image_shape=(3, *size),
        ratios=(float(f"{conflicting:.3g}"),),
        transform=Transform(),
        backbones=BACKBONES,
        sources=f"the images that {path} lists",
        version=table.version,
        build=build,
        provenance=lambda root: md5_of(path.parent, path.name),
        aligned=tuple(map(tuple, aligned.tolist())),
        open_ratio=False,
        validation=validation,
        unbiased="group_mean_accuracy",
        primary="group_mean_accuracy",
    )


FAMILY = Family(
    name="table",
    summary="Images of your own that a CSV or Parquet file lists.",
    argument="the file, with columns path, label, attribute and split",
    recipe=_recipe,
)
