"""Waterbirds: land and water birds before land and water (Sagawa et al., ICLR 2020), 224x224.

Birds of CUB-200-2011 pasted onto scenes of Places. In training 95 percent of the birds stand where
they belong; in the official validation and test splits half of each class do.

Departures: labels are as published, though the authors name three species of land birds that are
marked as water birds (Eastern Towhee, Western Meadowlark, Western Wood Pewee).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from harness.csv_file import read_columns
from harness.datasets.decoding import ImageFiles
from harness.datasets.published import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PublishedTree,
    md5_of,
    official_splits,
    to_split,
    within,
)
from harness.datasets.recipe import Progress, Recipe, SplitArrays
from harness.datasets.validation import validation_splits
from harness.training_set import Transform

SIDE = 224
MARGIN = 16  # Resize((256, 256)), CenterCrop(224)
PUBLISHED = (  # of train, valid and test, by (water bird, water)
    {(0, 0): 3_498, (0, 1): 184, (1, 0): 56, (1, 1): 1_057},
    {(0, 0): 467, (0, 1): 466, (1, 0): 133, (1, 1): 133},
    {(0, 0): 2_255, (0, 1): 2_255, (1, 0): 642, (1, 1): 642},
)
TABLE = "metadata.csv"
COLUMNS = ("img_filename", "y", "place", "split")
TREE = PublishedTree(
    title="Waterbirds",
    origin="nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz "
    "(github.com/kohpangwei/group_DRO)",
    folder="waterbirds",
    layout=f"{TABLE} and one folder per species, which is what waterbird_complete95_forest2water2 "
    "holds",
)


def build(root: Path, ratio: float, seed: int, progress: Progress) -> dict[str, SplitArrays]:
    """Reads the published table: label y, attribute place, split."""
    tree = TREE.at(root, TABLE)
    paths, cells, parts = [], [], []
    table, lines = read_columns(tree / TABLE)
    if missing := [name for name in COLUMNS if name not in table]:
        raise ValueError(f"{tree / TABLE} lacks the column {', '.join(missing)}")
    rows = zip(lines, *(table[name] for name in COLUMNS), strict=True)
    for line, name, label, place, part in rows:
        try:
            paths.append(within(tree, name))
            cells.append((int(label), int(place)))
            parts.append(("0", "1", "2").index(part))
        except ValueError:
            raise ValueError(
                f"{tree / TABLE}, line {line}: expected img_filename, y, place and split "
                f"(0, 1 or 2), but got {name!r}, {label!r}, {place!r}, {part!r}"
            ) from None
    if not paths:
        raise ValueError(f"{tree / TABLE} lists no image")
    whole = to_split(ImageFiles(tuple(paths), (SIDE, SIDE), margin=MARGIN), cells, 2, 2)
    train, valid, test = official_splits(TREE.title, whole, parts, PUBLISHED)
    made = validation_splits(valid, train, np.random.default_rng(seed))
    return {"train": train, **made, "test": test}


def _provenance(root: Path) -> Mapping[str, str]:
    return md5_of(TREE.at(root), TABLE)


RECIPE = Recipe(
    name="waterbirds",
    summary="Waterbirds (GroupDRO): birds biased by land or water behind them, photos, 224x224.",
    num_classes=2,
    num_attributes=2,
    image_shape=(3, SIDE, SIDE),
    ratios=(5.0,),
    transform=Transform(mean=IMAGENET_MEAN, std=IMAGENET_STD),
    backbones=BACKBONES,
    sources=TREE.describe(),
    version=1,
    build=build,
    provenance=_provenance,
    open_ratio=False,
    unbiased="group_mean_accuracy",
    primary="worst_group_accuracy",
)
