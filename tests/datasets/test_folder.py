import re
import warnings

import numpy as np
import pytest
from PIL import Image

from harness import datasets
from harness.datasets import load
from harness.datasets.folder import recipe_of
from harness.datasets.recipe import silent
from harness.training_set import Transform


def draw(path, colour=(0, 0, 0), size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def shown(folder, valid="1pct/valid/{}", test="test/{}"):
    """Two classes and attributes: a red channel that counts up, image by image."""
    names = [
        "1pct/align/zero/0_0_0.png",
        "1pct/align/zero/10_0_0.png",
        "1pct/align/one/x_1_1.png",
        "1pct/conflict/one/7_1_0.png",
        valid.format("zero") + "/0_0_0.png",
        valid.format("zero") + "/1_0_1.png",
        valid.format("one") + "/2_1_1.png",
        test.format("zero") + "/0_0_1.png",
        test.format("one") + "/1_1_0.png",
    ]
    for number, name in enumerate(names):
        draw(folder / name, (number, 0, 0))
    return folder


@pytest.fixture
def folder(tmp_path):
    return shown(tmp_path / "images")


def get(name):
    """As a new process finds it."""
    recipe_of.cache_clear()
    return datasets.get(name)


def build(folder, ratio=1, seed=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get(f"folder:{folder}").build(folder, ratio, seed, silent)


def names(split):
    return [path.name for path in split.images.paths]


def test_labels_attributes_and_ids_come_from_the_file_names(folder):
    recipe = get(f"folder:{folder}")
    assert (recipe.num_classes, recipe.num_attributes, recipe.ratios) == (2, 2, (1,))
    assert recipe.transform == Transform() and not recipe.open_ratio
    train = build(folder)["train"]
    # Aligned ones first, each side sorted by path; "x" is no number, so its position is taken.
    assert names(train) == ["x_1_1.png", "0_0_0.png", "10_0_0.png", "7_1_0.png"]
    assert train.labels.tolist() == [1, 0, 0, 1]
    assert train.attributes.tolist() == [1, 0, 0, 0]
    assert train.ids.tolist() == [0, 0, 10, 7]
    assert train.labels.dtype == train.attributes.dtype == train.ids.dtype == np.int64


def test_a_folder_is_loaded_like_any_data_set(folder, tmp_path):
    with pytest.warns(UserWarning, match="valid_unbiased"):
        data = load(f"folder:{folder}", tmp_path / "data", 1)
    assert data.train.images[:, 0, 0, 0].tolist() == [2, 0, 1, 3]
    assert data.evaluation["test"].images[:, 0, 3, 3].tolist() == [8, 7]
    assert data.conflicting().tolist() == [False, False, False, True]


@pytest.mark.parametrize("valid", ["1pct/valid/{}", "1pct/valid", "valid/{}", "valid"])
@pytest.mark.parametrize("test", ["test/{}", "test"])
def test_evaluation_images_lie_flat_or_in_classes(tmp_path, valid, test):
    splits = build(shown(tmp_path, valid, test))
    assert sorted(names(splits["valid_biased"])) == ["0_0_0.png", "1_0_1.png", "2_1_1.png"]
    assert sorted(names(splits["test"])) == ["0_0_1.png", "1_1_0.png"]


def test_each_ratio_has_its_own_validation_or_that_of_all(folder):
    for ratio in ("0.5", "20"):
        draw(folder / f"{ratio}pct/align/0/5_0_0.png")
        draw(folder / f"{ratio}pct/conflict/1/6_1_0.png")
    draw(folder / "0.5pct/valid/8_1_1.png")
    draw(folder / "valid/9_1_0.png")
    assert get(f"folder:{folder}").ratios == (0.5, 1, 20)
    found = [names(build(folder, ratio)["valid_biased"])[0] for ratio in (0.5, 1, 20)]
    assert found == ["8_1_1.png", "2_1_1.png", "9_1_0.png"]
    with pytest.raises(ValueError, match="exists with conflict ratio 0.5, 1, 20 percent, but got"):
        load(f"folder:{folder}", folder, 5)


def test_the_unbiased_validation_split_is_given(folder):
    draw(folder / "1pct/valid_unbiased/8_1_0.png")
    assert names(build(folder)["valid_unbiased"]) == ["8_1_0.png"]


def test_or_drawn(folder):
    for number in range(10, 40):
        draw(folder / f"1pct/valid/{number}_{number % 2}_{number // 2 % 2}.png")
    with pytest.warns(UserWarning) as caught:
        splits = get(f"folder:{folder}").build(folder, 1, 0, silent)
    assert [str(each.message) for each in caught] == [
        f"{folder}/1pct: valid_unbiased, drawn from valid, has 7 images per label and attribute, "
        "fewer than 10: add a valid_unbiased of your own"
    ]
    assert len(splits["valid_biased"].labels) == 33
    drawn = splits["valid_unbiased"]
    assert np.bincount(2 * drawn.labels + drawn.attributes).tolist() == [7] * 4
    assert names(build(folder)["valid_unbiased"]) == names(drawn)
    assert names(build(folder, seed=1)["valid_unbiased"]) != names(drawn)
    for number in range(40, 50):
        draw(folder / f"1pct/valid/{number}_{number % 2}_{number // 2 % 2}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get(f"folder:{folder}").build(folder, 1, 0, silent)


def test_or_absent_where_attributes_tell_the_label(folder):
    (folder / "1pct/valid/zero/1_0_1.png").unlink()
    assert get(f"folder:{folder}").validation == ("valid_biased",)
    assert set(build(folder)) == {"train", "valid_biased", "test"}


def test_the_align_folder_says_which_cells_are_aligned(tmp_path):
    for name in ("1pct/align/0_0_1", "1pct/align/1_1_2", "1pct/conflict/2_0_2", "valid/3_0_0"):
        draw(tmp_path / f"{name}.png")
    draw(tmp_path / "test/4_1_1.png")
    aligned = get(f"folder:{tmp_path}").aligned_table().tolist()
    assert aligned == [[False, True, False], [False, False, True]]


def test_images_take_the_size_of_the_first(folder, tmp_path):
    draw(folder / "1pct/align/one/x_1_1.png", (200, 0, 0), size=(6, 3))
    assert get(f"folder:{folder}").image_shape == (3, 3, 6)
    with pytest.warns(UserWarning):
        images = load(f"folder:{folder}", tmp_path / "data", 1).train.images
    assert images.shape == (4, 3, 3, 6)
    assert images[:, 0, 2, 5].tolist() == [200, 0, 1, 3]


def test_suffixes_in_any_case_and_nothing_else(folder):
    draw(folder / "test/5_0_0.JPG")
    draw(folder / "test/6_0_0.jpeg")
    (folder / "test/._6_0_0.png").touch()
    (folder / "test/Thumbs.db").touch()
    (folder / "1pct/readme_1_1.png").touch()
    assert len(build(folder)["test"].labels) == 4


def test_a_process_lists_the_folder_once(folder):
    first = get(f"folder:{folder}")
    assert datasets.get(f"folder:{folder}/../{folder.name}") is first
    assert get(f"folder:{folder}") is not first


def test_the_version_is_that_of_the_listing(folder, tmp_path):
    def version():
        return get(f"folder:{folder}").version

    first = version()
    (folder / "test/zero/0_0_1.png").touch()
    assert version() == first == get(f"folder:{shown(tmp_path / 'copy')}").version
    draw(folder / "test/zero/0_0_1.png", size=(9, 9))
    second = version()
    assert second != first
    (folder / "test/zero/0_0_1.png").rename(folder / "test/zero/0_0_0.png")
    assert version() not in (first, second)


def test_one_folder_has_one_name(tmp_path, monkeypatch):
    place = shown(tmp_path / "a, b: c/größe [1]")
    monkeypatch.chdir(place.parent)
    assert get("folder:größe [1]").name == get(f"folder:{place}/../größe [1]").name
    assert get("folder:größe [1]").name == f"folder:{place}"
    with pytest.warns(UserWarning):
        data = load("folder:größe [1]", tmp_path / "data", 1)
    assert data.name == f"folder:{place}" and len(data.train.labels) == 4


def error_of(name):
    with pytest.raises(ValueError) as error:
        get(name)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "name", ["0.png", "0_1.png", "0_a_1.png", "0_1_b.png", "0_-1_0.png", "0_1.5_0.png", "0_1_.png"]
)
def test_names_without_label_and_attribute_are_refused(folder, name):
    draw(folder / "test/one" / name)
    assert error_of(f"folder:{folder}") == (
        f"{folder}/test/one/{name}: the name does not end in _LABEL_ATTRIBUTE"
    )


def test_numbers_have_no_gaps(folder):
    draw(folder / "test/0_20260101_0.png")
    assert error_of(f"folder:{folder}") == (
        f"{folder}: file names have labels up to 20260101, but none has label 2: number them from "
        "0 without gaps"
    )


def test_long_numbers_are_no_ids(folder):
    draw(folder / "test/99999999999999999999_0_0.png")
    assert build(folder)["test"].ids.tolist() == [0, 1, 0]


def test_an_image_on_the_wrong_side_is_named(folder):
    draw(folder / "1pct/conflict/one/8_1_1.png")
    assert error_of(f"folder:{folder}") == (
        f"{folder}/1pct/conflict/one/8_1_1.png: label 1 and attribute 1 lie in conflict/, but are "
        "bias-aligned"
    )


@pytest.mark.parametrize(
    ("moved", "missing"),
    [
        ("1pct", "a folder such as 1pct/"),
        ("1pct/conflict", "1pct/conflict/"),
        ("1pct/valid", "images in 1pct/valid/"),
        ("test", "images in test/"),
    ],
)
def test_another_layout_is_refused_with_the_one_expected(folder, moved, missing):
    (folder / moved).rename(folder / "conlict")
    assert error_of(f"folder:{folder}") == (
        f"{folder} lacks {missing}. Expected: 1pct/{{align,conflict}}/CLASS/ID_LABEL_ATTRIBUTE.png "
        "(where 1 is the conflict ratio in percent), 1pct/valid/… and test/…"
    )


def test_a_path_is_needed(tmp_path):
    assert error_of("folder") == error_of("folder:") == "folder needs a path: folder:PATH"
    assert error_of(f"folder:{tmp_path}/no").startswith(f"{tmp_path}/no is not a folder; ")


def test_a_damaged_first_image_is_named(folder):
    (folder / "1pct/align/one/x_1_1.png").write_bytes(b"none")
    message = error_of(f"folder:{folder}")
    assert message.startswith(f"cannot read {folder}/1pct/align/one/x_1_1.png: ")


def test_a_card_by_hand_may_say_a_few_things(folder):
    (folder / "dataset.json").write_text(
        '{"transform": {"flip": true}, "backbones": {"quick": ["resnet18", "none"]}, '
        '"aligned": [[true, false, false], [false, true, false]]}'
    )
    recipe = get(f"folder:{folder}")
    assert recipe.transform == Transform(flip=True)
    assert (recipe.num_classes, recipe.num_attributes) == (2, 3)
    assert recipe.backbones["quick"] == ("resnet18", "none")
    assert recipe.backbones["paper"] == ("resnet18", "imagenet")
    assert recipe.unbiased == recipe.primary == "group_mean_accuracy"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"nam": ""}', "cannot use .*/dataset.json: nam: Unexpected keyword argument"),
        ('{"transform": {"flipp": true}}', "cannot use .*: transform.Transform.flipp: Unexpected"),
        ("{", "cannot use .*/dataset.json: all of it: Invalid JSON: EOF"),
        ('{"aligned": [[true]]}', "label . and attribute . are not in the 1x1 aligned table of"),
        (
            '{"aligned": [[false, true], [true, false]]}',
            "0_0_0.png: label 0 and attribute 0 lie in align/, but are bias-conflicting",
        ),
    ],
)
def test_a_wrong_card_is_refused(folder, text, message):
    (folder / "dataset.json").write_text(text)
    assert re.search(message, error_of(f"folder:{folder}"))
