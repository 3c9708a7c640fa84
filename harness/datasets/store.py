"""Built arrays on disk: one folder per data set, ratio and seed, built once and verified.

`<root>/arrays/<name>/ratio=<percent>,seed=<seed>,v<version>/` holds one .npy file per array and a
manifest with their sha256. The manifest is written last and the folder then moved into place, so
that a folder without manifest is an interrupted build and one with it is complete.
"""

import hashlib
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from harness.datasets.catalogue import get
from harness.datasets.decoding import ImageFiles
from harness.datasets.recipe import Progress, Recipe, SplitArrays, silent
from harness.disk import (
    move_into_place,
    scratch_folder,
    seal,
    sha256,
    unseal,
    write_durably,
    writing_to,
)
from harness.space import slug
from harness.training_set import BiasedDataset, GroupedSplit

MANIFEST = "manifest.json"


class Manifest(TypedDict):
    """What manifest.json holds.

    `groups` has, per split, the number of images by label and attribute; `sources` the md5 of the
    raw files, or of the names and sizes of many images; `files` the sha256 of the arrays, and
    `fingerprint` a digest of those.
    """

    name: str
    version: int | str
    ratio: float
    seed: int
    build_seconds: float
    sources: dict[str, str]
    groups: dict[str, list[list[int]]]
    files: dict[str, str]
    fingerprint: str


_MANIFEST = TypeAdapter(Manifest)


def describe(name: str, root: Path, ratio: float, seed: int = 0) -> Manifest | None:
    """Returns the manifest of a built data set, or None when it is not on disk.

    Raises:
        ValueError: The name or the ratio is not valid.
    """
    recipe = get(name)
    return _manifest(folder_of(recipe, root, ratio, seed))


def prepare(
    name: str, root: Path, ratio: float, seed: int = 0, progress: Progress = silent
) -> Path:
    """Builds a data set unless it is on disk, intact. Concurrent callers build it once.

    Args:
        name: A data set of the catalogue.
        root: The data folder; raw files and built arrays live below it.
        ratio: Conflict ratio in percent, in (0, 100].
        seed: Data seed, which is not the seed of a trial.
        progress: Called while raw files are fetched and images are made.

    Returns:
        The folder of the arrays.

    Raises:
        ValueError: A bad name or ratio, raw files that no source has, or a disk that is full.
    """
    recipe = get(name)
    folder = folder_of(recipe, root, ratio, seed)
    if _damage(recipe, folder) is None:
        return folder
    with writing_to(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f"{folder.name}.lock"))
        lock.acquire()
    try:
        damage = _damage(recipe, folder)
        if damage is not None:
            if folder.exists():
                warnings.warn(f"{folder}: {damage}; building it again", stacklevel=2)
            _build(recipe, folder, root, ratio, seed, progress)
    finally:
        lock.release()
    return folder


def load(
    name: str, root: Path, ratio: float, seed: int = 0, progress: Progress = silent
) -> BiasedDataset:
    """Returns a data set, building it first if need be. Takes the arguments of `prepare`.

    The tensors are memory-mapped: processes share the pages, and writes stay private. Within a
    process the arrays are verified once, and the same object is returned afterwards.
    """
    folder = folder_of(get(name), root, ratio, seed)
    if folder not in _OPENED:
        prepare(name, root, ratio, seed, progress)
        _OPENED[folder] = _open(folder)
    return _OPENED[folder]


_OPENED: dict[Path, BiasedDataset] = {}


def folder_of(recipe: Recipe, root: Path, ratio: float, seed: int) -> Path:
    """Returns where the arrays of a data set are, or will be."""
    recipe.check_ratio(ratio)
    percent = repr(float(ratio)).removesuffix(".0")
    key = f"ratio={percent},seed={seed},v{recipe.version}"
    return Path(os.path.expanduser(root)).resolve() / "arrays" / slug(recipe.name) / key


def _manifest(folder: Path) -> Manifest | None:
    try:
        return _MANIFEST.validate_python(unseal((folder / MANIFEST).read_text()), strict=True)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None


def _damage(recipe: Recipe, folder: Path) -> str | None:
    """Says what is wrong with a folder of arrays, or None when every byte is as written."""
    manifest = _manifest(folder)
    if manifest is None:
        return f"no readable {MANIFEST}"
    splits = ("train", *recipe.validation, "test")
    needed = {f"{split}_{kind}.npy" for split in splits for kind in SplitArrays._fields}
    if manifest["name"] != recipe.name or not needed <= {*manifest["files"]}:
        return f"{MANIFEST} is of other arrays"
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256(path) != expected:
            return f"{name} is not as written"
    return None


def _build(
    recipe: Recipe, folder: Path, root: Path, ratio: float, seed: int, progress: Progress
) -> None:
    """Builds and stores the arrays; the caller holds the lock."""
    start = time.perf_counter()
    root = Path(os.path.expanduser(root)).resolve()
    splits = recipe.build(root, ratio, seed, progress)
    sources = {**recipe.raw_files, **recipe.provenance(root)}
    with writing_to(folder), scratch_folder(folder) as partial:
        files = {}
        for split, arrays in splits.items():
            for kind, array in arrays._asdict().items():
                path = partial / f"{split}_{kind}.npy"
                if isinstance(array, ImageFiles):
                    array.save(path, progress, f"decoding the {split} images")
                    sources[f"names and sizes of the {split} images"] = array.digest()
                else:
                    np.save(path, array)
                files[path.name] = sha256(path)
        manifest: Manifest = {
            "name": recipe.name,
            "version": recipe.version,
            "ratio": float(ratio),
            "seed": seed,
            "build_seconds": round(time.perf_counter() - start, 3),
            "sources": sources,
            "groups": {split: _groups(recipe, arrays) for split, arrays in splits.items()},
            "files": files,
            "fingerprint": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
        }
        write_durably(partial / MANIFEST, seal(dict(manifest), indent=2).encode())
        move_into_place(partial, folder)


def _groups(recipe: Recipe, arrays: SplitArrays) -> list[list[int]]:
    """Counts images by label and attribute."""
    counts = np.zeros((recipe.num_classes, recipe.num_attributes), dtype=np.int64)
    np.add.at(counts, (arrays.labels, arrays.attributes), 1)
    return counts.tolist()


def _open(folder: Path) -> BiasedDataset:
    manifest = _manifest(folder)
    assert manifest is not None  # prepare() has just verified it
    recipe = get(manifest["name"])

    def split(name: str) -> GroupedSplit:
        # Mode "c" (copy on write) rather than "r": torch warns about memory it may not write to.
        return GroupedSplit(
            *(
                torch.from_numpy(np.load(folder / f"{name}_{kind}.npy", mmap_mode="c"))
                for kind in ("images", "labels", "attributes")
            )
        )

    return BiasedDataset(
        name=recipe.name,
        ratio=manifest["ratio"],
        num_classes=recipe.num_classes,
        num_attributes=recipe.num_attributes,
        transform=recipe.transform,
        aligned=torch.from_numpy(recipe.aligned_table()),
        train=split("train"),
        evaluation={name: split(name) for name in (*recipe.validation, "test")},
        fingerprint=manifest["fingerprint"],
    )
