import os
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from harness import datasets
from harness.datasets import load
from harness.datasets.recipe import silent
from harness.datasets.table import recipe_of

ROWS = [  # path, label, attribute, split; three of eight training images conflict
    ("cows/0.png", "cow", "grass", "train"),
    ("cows/1.png", "cow", "grass", "train"),
    ("cows/2.png", "cow", "grass", "train"),
    ("cows/3.png", "cow", "beach", "train"),
    ("4.png", "camel", "sand", "train"),
    ("5.png", "camel", "sand", "train"),
    ("6.png", "camel", "grass", "train"),
    ("7.png", "camel", "None", "train"),
    *((f"{8 + n}.png", "cow", "grass", "valid") for n in range(4)),
    *((f"{12 + n}.png", "cow", "beach", "valid") for n in range(2)),
    *((f"{14 + n}.png", "camel", "sand", "valid") for n in range(4)),
    *((f"{18 + n}.png", "camel", "grass", "valid") for n in range(2)),
    *((f"{20 + n}.png", "camel", "None", "valid") for n in range(2)),
    ("22.png", "camel", "beach", "test"),
    ("23.png", "cow", "None", "test"),
]
LABELS = ["camel", "cow"]
ATTRIBUTES = ["None", "beach", "grass", "sand"]


@pytest.fixture
def table(tmp_path):
    """Writes a table and its images, whose red channel is the row; returns what names it."""

    def write(rows=ROWS, name="table.csv", **columns):
        folder = tmp_path / "a, b"
        frame = pd.DataFrame(rows, columns=["path", "label", "attribute", "split"])
        for row, path in enumerate(frame["path"]):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (row, 0, 0)).save(folder / path)
        frame = frame.assign(**columns)
        if name.endswith(".csv"):
            frame.to_csv(folder / name, index=False)
        else:
            frame.to_parquet(folder / name)
        return f"table:{folder / name}"

    return write


def get(name):
    """As a new process finds it."""
    recipe_of.cache_clear()
    return datasets.get(name)


def build(name, seed=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get(name).build(None, get(name).ratios[0], seed, silent)


def cells(split):
    """What `split` has, in the words of the table."""
    pairs = zip(split.labels, split.attributes, strict=True)
    return [(LABELS[label], ATTRIBUTES[attribute]) for label, attribute in pairs]


def test_texts_are_numbered_in_sorted_order(table):
    recipe = get(table())
    assert (recipe.num_classes, recipe.num_attributes) == (2, 4)
    for name, split in build(table()).items():
        rows = [ROWS[row] for row in split.ids]
        assert cells(split) == [row[1:3] for row in rows]
        assert [path.name for path in split.images.paths] == [row[0].split("/")[-1] for row in rows]
        assert {row[3] for row in rows} == {name.split("_")[0]}


def test_whole_numbers_keep_their_order(table):
    rows = [(f"{n}.png", label, n % 2, "train") for n, label in enumerate((9, 10, 9, -1))]
    rows += [("a.png", 9, 0, "valid"), ("b.png", 9, 0, "test")]
    assert build(table(rows))["train"].labels.tolist() == [1, 2, 1, 0]
    texts = [(path, f"{label}x", *rest) for path, label, *rest in rows]
    assert build(table(texts))["train"].labels.tolist() == [2, 1, 2, 0]


def test_the_majority_of_a_label_is_aligned(table):
    recipe = get(table())
    found = [ATTRIBUTES[row.argmax()] for row in recipe.aligned_table()]
    assert found == ["sand", "grass"] and recipe.aligned_table().sum() == 2
    assert recipe.ratios == (37.5,) and not recipe.open_ratio
    assert recipe.unbiased == recipe.primary == "group_mean_accuracy"


def test_of_equally_many_the_lowest_attribute_is_aligned(table):
    rows = [(f"{n}.png", 0, attribute, "train") for n, attribute in enumerate((2, 1, 2, 1, 0))]
    rows += [("5.png", 1, 2, "train"), ("a.png", 0, 0, "valid"), ("b.png", 0, 0, "test")]
    recipe = get(table(rows))
    assert recipe.aligned_table().tolist() == [[False, True, False], [False, False, True]]
    # Three of six: the evaluation images do not count.
    assert recipe.ratios == (50,)


def test_the_ratio_has_three_digits(table):
    rows = [(f"{n}.png", 0, min(n, 1), "train") for n in range(7)]
    rows += [("a.png", 0, 0, "valid"), ("b.png", 0, 0, "test")]
    assert get(table(rows)).ratios == (14.3,)


def test_parquet_says_the_same_as_csv(table, tmp_path):
    loaded = []
    for name in ("table.csv", "table.parquet"):
        with pytest.warns(UserWarning, match="valid_unbiased"):
            loaded.append(load(table(name=name), tmp_path / "data", 37.5))
    assert loaded[0].fingerprint == loaded[1].fingerprint
    assert loaded[0].train.images[:, 0, 0, 0].tolist() == list(range(8))
    assert loaded[0].aligned.equal(loaded[1].aligned)
    numbers = table([(path, len(y), len(a), part) for path, y, a, part in ROWS])
    typed = table([(path, len(y), len(a), part) for path, y, a, part in ROWS], "n.parquet")
    for name, split in build(numbers).items():
        assert split.attributes.tolist() == build(typed)[name].attributes.tolist()


def test_validation_splits_are_drawn_from_valid(table):
    with pytest.warns(UserWarning, match="table.csv: valid_unbiased, drawn .* has 2 images per"):
        splits = get(table()).build(None, 37.5, 0, silent)
    assert set(splits) == {"train", "valid_biased", "valid_unbiased", "test"}
    biased, unbiased = cells(splits["valid_biased"]), cells(splits["valid_unbiased"])
    # Of 13 images, 3/8, 1/8, 2/8, 1/8 and 1/8, rounded down; of 14 there would be 5 cows on grass.
    expected = {("cow", "grass"): 4, ("cow", "beach"): 1, ("camel", "sand"): 3}
    expected |= {("camel", "grass"): 1, ("camel", "None"): 1}
    assert {cell: biased.count(cell) for cell in biased} == expected
    assert {cell: unbiased.count(cell) for cell in unbiased} == dict.fromkeys(expected, 2)
    for name in ("valid_biased", "valid_unbiased"):
        assert len({tuple(build(table(), seed)[name].ids) for seed in range(5)}) > 1


def test_explicit_validation_splits_go_first(table):
    rows = [*ROWS, ("b.png", "cow", "beach", "valid_biased")]
    assert build(table(rows))["valid_biased"].ids.tolist() == [24]
    rows += [("u.png", "cow", "beach", "valid_unbiased")]
    splits = build(table(rows))
    assert splits["valid_unbiased"].ids.tolist() == [25]
    assert set(splits) == {"train", "valid_biased", "valid_unbiased", "test"}
    rows = [row for row in rows if row[3] not in ("valid", "valid_unbiased")]
    assert get(table(rows)).validation == ("valid_biased",)
    assert set(build(table(rows))) == {"train", "valid_biased", "test"}


def test_the_version_is_that_of_table_and_images(table, tmp_path):
    first = get(table())
    assert get(table()).version == first.version
    image = tmp_path / "a, b/22.png"
    Image.new("RGB", (9, 9)).save(image)
    second = get(first.name)
    assert second.version != first.version
    swapped = [*ROWS[:-2], ROWS[-1], ROWS[-2]]
    assert get(table(swapped)).version not in (first.version, second.version)
    (md5,) = first.provenance(tmp_path).items()
    assert md5[0] == "a, b/table.csv" and len(md5[1]) == 32


def error_of(name):
    with pytest.raises(ValueError) as error:
        get(name)
    assert "\n" not in str(error.value)
    _, _, file = name.partition(":")
    return str(error.value).replace(file, "FILE") if file else str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a.png", "cow", "grass", "training"), "the split must be one of train, valid, "),
        (("a.png", "cow", None, "train"), "no attribute"),
        (("a.png", float("nan"), "grass", "train"), "no label"),
        (("a.png", "cow", "grass", ""), "no split"),
        (("a.png", "pig", "grass", "test"), "no training image has the label 'pig'"),
    ],
)
@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_wrong_rows_are_named(table, row, message, name):
    if row[3] == "" and name == "table.parquet":
        message = "the split must be one of"
    assert error_of(table([*ROWS, row], name)).startswith(f"FILE, row 25: {message}")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.png", "'gone.png': No such file or directory"),
        ("22.png/22.png", "'22.png/22.png': Not a directory"),
        ("cows", "'cows' is not a file"),
        ("..", "'..' is not a file"),
        ("../secret.png", "'../secret.png' lies outside of the table's folder"),
        ("cows/../../secret.png", "'cows/../../secret.png' lies outside of the table's folder"),
        ("../a, b!/secret.png", "'../a, b!/secret.png' lies outside of the table's folder"),
        ("/etc/hostname", "'/etc/hostname' lies outside of the table's folder"),
        ("link.png", "'link.png' lies outside of the table's folder"),
        ("linked/secret.png", "'linked/secret.png' lies outside of the table's folder"),
    ],
)
def test_images_that_are_not_there_or_not_inside_are_refused(table, tmp_path, path, message):
    name = table()
    for folder in (tmp_path, tmp_path / "a, b!"):
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / "secret.png")
    os.symlink("../secret.png", tmp_path / "a, b/link.png")
    os.symlink("..", tmp_path / "a, b/linked")
    file = tmp_path / "a, b/table.csv"
    file.write_text(file.read_text().replace("23.png", f'"{path}"'))
    assert error_of(name) == f"FILE, row 24: {message}"


def test_links_that_stay_inside_are_followed(table, tmp_path):
    name = table()
    folder = tmp_path / "a, b"
    (folder / "4.png").rename(folder / "real.png")
    os.symlink("real.png", folder / "4.png")
    (tmp_path / "alias").symlink_to(folder)
    assert len(build(f"table:{tmp_path}/alias/table.csv")["train"].labels) == 8
    assert build(name)["train"].images.paths[4].name == "real.png"


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train", "no row has the split train"),
        ("test", "no row has the split test"),
        ("valid", "no row has the split valid or valid_biased"),
    ],
)
def test_no_split_may_be_empty(table, split, message):
    assert error_of(table([row for row in ROWS if row[3] != split])) == f"FILE: {message}"


def test_a_missing_column_is_named(table, tmp_path):
    name = table()
    file = tmp_path / "a, b/table.csv"
    file.write_text(file.read_text().replace("label,attribute", "class,place", 1))
    assert error_of(name) == (
        "FILE lacks the column label, attribute; it has path, class, place, split"
    )


def test_what_is_no_table_is_refused(table, tmp_path):
    assert error_of("table") == "table needs a file: table:FILE.csv or table:FILE.parquet"
    assert error_of(f"table:{tmp_path}/no.csv").startswith("FILE is not a file; ")
    for name, content, message in (
        ("t.txt", b"", "the name must end in .csv or .parquet"),
        ("t.csv", b"", "it is empty"),
        ("t.csv", b"path,label\n\xff\xfe\xff,2\n", "'utf-8' codec can't decode"),
        ("t.parquet", b"none", "Parquet"),
    ):
        (tmp_path / name).write_bytes(content)
        found = error_of(f"table:{tmp_path / name}")
        assert found.startswith("cannot read FILE: ") and message in found
    (tmp_path / "t.csv").write_text("path,label\n1,2,3\n")
    assert error_of(f"table:{tmp_path / 't.csv'}").startswith("FILE line 2 has 3 fields, not 2")


def test_images_take_the_size_of_the_first_training_image(table, tmp_path):
    name = table()
    Image.new("RGB", (6, 3), (200, 0, 0)).save(tmp_path / "a, b/cows/0.png")
    assert get(name).image_shape == (3, 3, 6)
    with pytest.warns(UserWarning):
        data = load(name, tmp_path / "data", 37.5)
    assert np.unique(data.train.images[:, 0], axis=0)[:, 2, 5].tolist() == [*range(1, 8), 200]
    assert data.evaluation["test"].images.shape == (2, 3, 3, 6)
