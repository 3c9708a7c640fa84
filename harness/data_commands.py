"""What the commands on data sets do, from validated options to printed result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from harness import console, datasets
from harness.console import say
from harness.datasets.contact_sheet import contact_sheet
from harness.datasets.export import export
from harness.jobs import prepare_data

VALIDATION = {
    "valid_biased": "images left out of training, biased like the training images",
    "valid_unbiased": "images left out of training, whose attribute says nothing of the label",
}


def list_() -> None:
    """Lists the data sets."""
    rows = [(each.name, each.summary, each.argument) for each in datasets.FAMILIES.values()]
    console.show(pd.DataFrame(rows, columns=["data set", "what it is", "after a colon"]))


def prepare(name: str, ratio: float | None, seed: int, data_root: Path | None) -> None:
    """Fetches raw files and builds arrays, unless they are there."""
    root = data_root or datasets.default_root()
    say(str(prepare_data(name, root, _ratio(name, ratio), seed)))


def show(
    name: str, ratio: float | None, seed: int, data_root: Path | None, image: Path | None
) -> None:
    """Prints the card of a data set; builds it only if a contact sheet is wanted."""
    root = data_root or datasets.default_root()
    recipe, ratio = datasets.get(name), _ratio(name, ratio)
    if image is not None:
        prepare_data(name, root, ratio, seed)
    say(f"{recipe.name}: {recipe.summary}")
    say(
        f"classes {recipe.num_classes}, attributes {recipe.num_attributes}, network input "
        f"{'x'.join(map(str, recipe.image_shape))}, published conflict ratios "
        f"{', '.join(f'{each:g}' for each in recipe.ratios)} %"
        f"{' (any other builds too)' if recipe.open_ratio else ''}"
    )
    say(f"results are ranked by {recipe.primary.replace('_', ' ')} on the test split")
    say(f"sources: {recipe.sources}")
    card = datasets.describe(name, root, ratio, seed)
    if card is None:
        say(f"ratio {ratio:g} is not on disk: `harness data prepare {name} --ratio {ratio:g}`")
        return
    folder = datasets.folder_of(recipe, root, ratio, seed)
    size = sum(file.stat().st_size for file in folder.iterdir())
    say(f"built in {card['build_seconds']:.1f} s, {size / 1e6:.0f} MB in {folder}")
    for path, digest in card["sources"].items():
        say(f"  {digest}  {path}")
    say("")
    console.show(_split_sizes(card["groups"], recipe.aligned_table()), f"ratio {ratio:g} %")
    for split in recipe.validation:
        say(f"{split}: {VALIDATION[split]}")
    say("")
    for split, counts in card["groups"].items():
        console.show(_group_sizes(counts, recipe.aligned_table()), f"{split}: images per group")
    if image is not None:
        dataset = datasets.load(name, root, ratio, seed)
        sheet = contact_sheet(dataset.train, dataset.aligned)
        try:
            sheet.save(image)
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot write {image}: {error}") from None
        say(f"wrote {image}: a row per class, aligned samples left, conflicting ones right")


def export_(
    name: str, target: Path, ratio: float | None, seed: int, data_root: Path | None
) -> None:
    """Writes a data set as PNG files in DisEnt's folder layout."""
    root = data_root or datasets.default_root()
    ratio = _ratio(name, ratio)
    prepare_data(name, root, ratio, seed)
    with console.data_progress() as progress:
        export(datasets.load(name, root, ratio, seed), datasets.get(name), target, progress)
    say(f"wrote {target}; read it with --dataset folder:{target} --ratio {ratio:g}")


def _ratio(name: str, ratio: float | None) -> float:
    """The ratio asked for, or the usual one."""
    return datasets.get(name).chosen_ratios([] if ratio is None else [ratio])[0]


def _split_sizes(groups: dict[str, list[list[int]]], aligned: np.ndarray) -> pd.DataFrame:
    """Size and conflict share of each split, as text."""
    rows = []
    for split, counts in groups.items():
        table = np.array(counts)
        conflicting = int(table[~aligned].sum())
        share = 100 * conflicting / int(table.sum())
        rows.append(
            (split, str(table.sum()), str(table[aligned].sum()), str(conflicting), f"{share:.2f} %")
        )
    columns = ["split", "images", "aligned", "conflicting", "conflicting share"]
    return pd.DataFrame(rows, columns=columns)


def _group_sizes(counts: list[list[int]], aligned: np.ndarray) -> pd.DataFrame:
    """Images per label (row) and attribute (column), aligned cells marked, as text."""
    table = pd.DataFrame(counts).astype(str)
    marked = table.where(~aligned, table + "*")
    marked.insert(0, "label", [str(label) for label in range(len(marked))])
    return marked.rename(columns={a: f"attribute {a}" if a == 0 else str(a) for a in table})
