"""A built data set as files that people, and other code bases, can read; see `folder`."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ConfigDict, TypeAdapter, ValidationError

from harness.datasets.published import BACKBONES
from harness.datasets.recipe import Progress, Recipe
from harness.disk import replace_atomically, scratch_folder
from harness.training_set import BiasedDataset, GroupedSplit, PhotoTransform, Transform

CARD = "dataset.json"

_EVERY = 250  # images between two reports


@dataclass(frozen=True)
class Card:
    """What dataset.json says of the images beside it. Every field may be left out.

    Attributes:
        name: The data set that was exported.
        transform: How images become network input.
        backbones: The (architecture, initial weights) of the presets "paper" and "quick".
        aligned: (num_classes, num_attributes), the bias-aligned cells.
        unbiased: Metric of the test split that counts as unbiased accuracy.
        primary: Metric of the test split to rank by.
        like: Data set whose hyperparameter settings and ranges apply.
        test: sha256 of the exported test split, by which a second ratio is known to fit.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str = ""
    transform: Transform | PhotoTransform = Transform()
    backbones: Mapping[str, tuple[str, str]] = field(default_factory=lambda: BACKBONES)
    aligned: tuple[tuple[bool, ...], ...] = ()
    unbiased: str = "group_mean_accuracy"
    primary: str = "group_mean_accuracy"
    like: str = ""
    test: str = ""


def read_card(folder: Path) -> Card:
    """Reads dataset.json, if there is one.

    Raises:
        ValueError: It is not as `Card` describes; names the field.
    """
    path = folder / CARD
    if not path.exists():
        return Card()
    try:
        return TypeAdapter(Card).validate_json(path.read_bytes())
    except ValidationError as error:
        faults = (
            f"{'.'.join(map(str, each['loc'])) or 'all of it'}: {each['msg']}"
            for each in error.errors(include_url=False)
        )
        raise ValueError(f"cannot use {path}: {'; '.join(faults)}") from None


def ratio_folder(ratio: float) -> str:
    """Names the folder of a conflict ratio, in percent."""
    return f"{ratio:g}pct"


def export(dataset: BiasedDataset, recipe: Recipe, target: Path, progress: Progress) -> None:
    """Writes a data set as lossless PNG files in the layout that `folder:TARGET` reads.

    Several ratios fit beside each other: they share test/ and dataset.json. The folder of the ratio
    is moved into place last, so that one that is there is complete; an interrupted export can be
    run again.

    Args:
        dataset: What to write.
        recipe: The recipe of that data set.
        target: A new or empty folder, or an export of the same data set at other ratios.
        progress: Called as files are written.

    Raises:
        ValueError: The target holds something else or this very ratio, or cannot be written to.
    """
    target = Path(os.path.expanduser(target))
    test, valid = dataset.evaluation["test"], dataset.evaluation["valid_biased"]
    conflicting = dataset.conflicting().numpy()
    parts = {
        "align": (dataset.train, np.flatnonzero(~conflicting)),
        "conflict": (dataset.train, np.flatnonzero(conflicting)),
        "valid": (valid, np.arange(len(valid.labels))),
    }
    if "valid_unbiased" in dataset.evaluation:
        unbiased = dataset.evaluation["valid_unbiased"]
        parts["valid_unbiased"] = unbiased, np.arange(len(unbiased.labels))
    card = _card(recipe, test)
    ratio = target / ratio_folder(dataset.ratio)
    _check(target, ratio, card)
    first = not (target / "test").exists()
    total = sum(len(rows) for _, rows in parts.values()) + first * len(test.labels)
    report = _counter(progress, total)
    try:
        target.mkdir(parents=True, exist_ok=True)
        replace_atomically(target / CARD, TypeAdapter(Card).dump_json(card))
        if first:
            with scratch_folder(target / "test") as partial:
                _write(partial, test, np.arange(len(test.labels)), report)
                partial.rename(target / "test")
        with scratch_folder(ratio) as partial:
            for part, (split, rows) in parts.items():
                (partial / part).mkdir()
                _write(partial / part, split, rows, report)
            partial.rename(ratio)
    except OSError as error:
        raise ValueError(f"cannot write to {target}: {error.strerror or error}") from error


def _card(recipe: Recipe, test: GroupedSplit) -> Card:
    digest = hashlib.sha256()
    for tensor in (test.images, test.labels, test.attributes):
        digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return Card(
        name=recipe.name,
        transform=recipe.transform,
        backbones=recipe.backbones,
        aligned=tuple(map(tuple, recipe.aligned_table().tolist())),
        unbiased=recipe.unbiased,
        primary=recipe.primary,
        like=recipe.settings_name,
        test=digest.hexdigest(),
    )


def _check(target: Path, ratio: Path, card: Card) -> None:
    """Refuses a target whose files would be mixed with others."""
    if ratio.exists():
        raise ValueError(f"{ratio} exists: delete it, or export to another folder")
    if (target / CARD).exists():
        there = read_card(target)
        names = [each.name for each in fields(Card)]
        differing = [name for name in names if getattr(there, name) != getattr(card, name)]
        if differing:
            raise ValueError(
                f"{target} holds {there.name or 'another data set'}, which differs from "
                f"{card.name} in {', '.join(differing)}: export to another folder"
            )
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is not an empty folder: export to another one")


def _counter(progress: Progress, total: int) -> Callable[[], None]:
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if done % _EVERY == 0 or done == total:
            progress("writing PNG files", done, total)

    return report


def _write(
    folder: Path, split: GroupedSplit, rows: NDArray[np.int64], report: Callable[[], None]
) -> None:
    """Writes some images of a split, numbered by their position in it."""
    labels, attributes = split.labels.tolist(), split.attributes.tolist()
    for label in set(labels):
        (folder / str(label)).mkdir()
    for row in rows.tolist():
        label, attribute = labels[row], attributes[row]
        pixels = split.images[row].permute(1, 2, 0).numpy()  # (H, W, 3)
        path = folder / str(label) / f"{row}_{label}_{attribute}.png"
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, compress_level=1)
        report()
