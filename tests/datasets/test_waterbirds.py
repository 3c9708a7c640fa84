import csv
import hashlib

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from harness.datasets import describe, load, prepare, waterbirds
from harness.datasets.recipe import silent

PER_CELL = {  # (water bird, water) to images of train, valid, test
    (0, 0): (12, 4, 3),
    (0, 1): (2, 4, 3),
    (1, 0): (1, 2, 2),
    (1, 1): (5, 2, 2),
}


def make_tree(root, write_image):
    """metadata.csv with all its columns and a JPEG per row; returns the rows."""
    folder = root / "raw/waterbirds"
    cells = [
        (*cell, part)
        for part in range(3)
        for cell, counts in PER_CELL.items()
        for _ in range(counts[part])
    ]
    order = np.random.default_rng(4).permutation(len(cells))
    rows = []
    for number, (y, place, split) in enumerate((cells[n] for n in order), 1):
        name = f"{y + 1:03}.Bird/Bird_{number:04}.jpg"
        write_image(folder / name, 30 + number, 90 - number)
        rows.append((number, name, y, split, place, "/f/forest/0001.jpg"))
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("img_id", "img_filename", "y", "split", "place", "place_filename"))
        writer.writerows(rows)
    return rows


def test_the_table_says_labels_places_and_splits(tmp_path, write_image):
    rows = make_tree(tmp_path, write_image)
    splits = waterbirds.build(tmp_path, 5, 0, silent)
    for name, part in (("train", 0), ("valid_biased", 1), ("valid_unbiased", 1), ("test", 2)):
        split = splits[name]
        for n, id_ in enumerate(split.ids):
            _, path, y, in_split, place, _ = rows[id_]
            assert (y, place, in_split) == (split.labels[n], split.attributes[n], part)
            assert split.images.paths[n] == tmp_path / "raw/waterbirds" / path
    prepare("waterbirds", tmp_path, 5)
    assert describe("waterbirds", tmp_path, 5)["groups"] == {
        "train": [[12, 2], [1, 5]],
        # the largest n with floor(12 n / 20) <= 4, floor(5 n / 20) <= 2 is 8
        "valid_biased": [[4, 0], [0, 2]],
        "valid_unbiased": [[2, 2], [2, 2]],
        "test": [[3, 3], [2, 2]],
    }


def test_images_are_prepared_as_by_the_authors(tmp_path, write_image):
    make_tree(tmp_path, write_image)
    data = load("waterbirds", tmp_path, 5)
    authors = transforms.Compose([transforms.Resize((256, 256)), transforms.CenterCrop(224)])
    paths = waterbirds.build(tmp_path, 5, 0, silent)["test"].images.paths
    for path, stored in zip(paths, data.evaluation["test"].images, strict=True):
        with Image.open(path) as image:
            expected = np.asarray(authors(image)).transpose(2, 0, 1)
        np.testing.assert_array_equal(stored, expected)


def test_the_manifest_has_the_checksum_of_the_table(tmp_path, write_image):
    make_tree(tmp_path, write_image)
    prepare("waterbirds", tmp_path, 5)
    table = (tmp_path / "raw/waterbirds/metadata.csv").read_bytes()
    sources = describe("waterbirds", tmp_path, 5)["sources"]
    assert sources["waterbirds/metadata.csv"] == hashlib.md5(table).hexdigest()


def test_published_counts_are_those_of_the_official_table():
    assert [sum(counts.values()) for counts in waterbirds.PUBLISHED] == [4_795, 1_199, 5_794]
    train = waterbirds.PUBLISHED[0]
    assert round((train[0, 1] + train[1, 0]) / 4_795, 2) == 0.05


def test_a_whole_table_with_other_counts_is_refused(tmp_path, write_image, monkeypatch):
    make_tree(tmp_path, write_image)
    published = [{cell: counts[part] for cell, counts in PER_CELL.items()} for part in range(3)]
    published[0] = {(0, 0): 11, (0, 1): 3, (1, 0): 1, (1, 1): 5}
    monkeypatch.setattr(waterbirds, "PUBLISHED", published)
    with pytest.raises(ValueError, match="^Waterbirds: 12 train images have label 0 and attribute"):
        waterbirds.build(tmp_path, 5, 0, silent)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",img_filename,", ",filename,", "metadata.csv lacks the column img_filename"),
        ("\n7,", "\n7,x,", "line 8 has 7 fields, not 6"),
        ("\n40,", "\n40", "line 41 has 5 fields, not 6"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, write_image, old, new, message):
    make_tree(tmp_path, write_image)
    path = tmp_path / "raw/waterbirds/metadata.csv"
    path.write_text(path.read_text().replace("\r\n", "\n").replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as error:
        waterbirds.build(tmp_path, 5, 0, silent)
    assert "\n" not in str(error.value)


def test_labels_must_be_binary(tmp_path, write_image):
    rows = make_tree(tmp_path, write_image)
    path = tmp_path / "raw/waterbirds/metadata.csv"
    number, name, y, split, place, _ = rows[4]
    line = f"{number},{name},{y},{split},{place}"
    assert line in path.read_text()
    path.write_text(path.read_text().replace(line, f"{number},{name},3,{split},{place}"))
    with pytest.raises(ValueError, match=f"{name}: the label must be below 2 .* are 3 and {place}"):
        waterbirds.build(tmp_path, 5, 0, silent)


def test_a_missing_tree_comes_with_its_address(tmp_path):
    with pytest.raises(ValueError) as error:
        prepare("waterbirds", tmp_path, 5)
    assert str(error.value) == (
        f"{tmp_path}/raw/waterbirds lacks metadata.csv. Get Waterbirds from "
        "nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz "
        "(github.com/kohpangwei/group_DRO) and unpack it so that this folder holds metadata.csv "
        "and one folder per species, which is what waterbird_complete95_forest2water2 holds."
    )


def test_a_missing_image_is_named(tmp_path, write_image):
    rows = make_tree(tmp_path, write_image)
    path = tmp_path / "raw/waterbirds" / next(row[1] for row in rows if row[3] == 2)
    path.unlink()
    with pytest.raises(ValueError) as error:
        prepare("waterbirds", tmp_path, 5)
    assert str(error.value) == f"cannot read {path}, image 1 of 10: no such file"
