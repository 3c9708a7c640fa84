import numpy as np
import pytest

from harness.datasets import describe, load, prepare

TRAIN = {  # folder, name: in the order of the split
    "0.5pct/align/0": ("10_0_0", "11_0_0", "9_0_0"),
    "0.5pct/align/1": ("3_1_1", "4_1_1", "5_1_1"),
    "0.5pct/conflict/0": ("7_0_1",),
    "0.5pct/conflict/1": ("8_1_0",),
}


def make_tree(folder, write_image, side=128):
    """Every split, and the pixels of each image by name."""
    pixels = {
        name: write_image(folder / where / f"{name}.png", side, side)
        for where, names in TRAIN.items()
        for name in names
    }
    for split, copies in (("valid", 3), ("test", 2)):
        for label, attribute in ((0, 0), (0, 1), (1, 0), (1, 1)):
            for copy in range(copies):
                name = f"{split}{copy}_{label}_{attribute}"
                pixels[name] = write_image(folder / split / f"{name}.png", side, side)
    return pixels


@pytest.fixture
def tree(tmp_path):
    return tmp_path / "raw/bffhq"


def test_names_say_labels_and_attributes(tmp_path, tree, write_image):
    pixels = make_tree(tree, write_image)
    data = load("bffhq", tmp_path, 0.5)
    names = [name for names in TRAIN.values() for name in names]
    np.testing.assert_array_equal(data.train.images, np.stack([pixels[name] for name in names]))
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 1]
    assert data.train.attributes.tolist() == [0, 0, 0, 1, 1, 1, 1, 0]
    assert data.conflicting().tolist() == [False] * 6 + [True] * 2
    test = data.evaluation["test"]
    assert test.labels.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    np.testing.assert_array_equal(test.images[2], pixels["test0_1_0"])
    groups = describe("bffhq", tmp_path, 0.5)["groups"]
    assert groups == {
        "train": [[3, 1], [1, 3]],
        "valid_biased": [[3, 1], [1, 3]],
        "valid_unbiased": [[3, 3], [3, 3]],
        "test": [[2, 2], [2, 2]],
    }


def test_validation_and_test_images_may_lie_in_folders(tmp_path, tree, write_image):
    make_tree(tree, write_image)
    flat = load("bffhq", tmp_path, 0.5).evaluation
    for path in [*tree.glob("valid/*"), *tree.glob("test/*")]:
        (path.parent / path.stem[-3]).mkdir(exist_ok=True)
        path.rename(path.parent / path.stem[-3] / path.name)
    nested = load("bffhq", tmp_path, 0.5, seed=1).evaluation
    assert nested["test"].labels.tolist() == [0] * 4 + [1] * 4
    total = flat["test"].images.sum()
    assert nested["test"].images.sum() == total
    assert len(nested["valid_unbiased"].labels) == len(flat["valid_unbiased"].labels) == 12


def test_images_of_another_size_are_resized(tmp_path, tree, write_image):
    make_tree(tree, write_image, side=20)
    assert load("bffhq", tmp_path, 0.5).train.images.shape == (8, 3, 128, 128)


def test_what_is_no_image_is_not_read(tmp_path, tree, write_image):
    make_tree(tree, write_image)
    (tree / "valid/.DS_Store").touch()
    (tree / "0.5pct/align/0/._10_0_0.png").touch()
    (tree / "0.5pct/align/0/notes.txt").touch()
    assert len(load("bffhq", tmp_path, 0.5).train.labels) == 8


def test_ratios_are_those_that_were_published(tmp_path, tree, write_image):
    with pytest.raises(ValueError) as error:
        prepare("bffhq", tmp_path, 3)
    assert str(error.value) == ("bffhq exists with conflict ratio 0.5, 1, 2, 5 percent, but got 3.")
    make_tree(tree, write_image)
    with pytest.raises(ValueError, match="^.*/raw/bffhq lacks 1pct/align, 1pct/conflict. Get "):
        prepare("bffhq", tmp_path, 1)


def test_a_missing_tree_comes_with_its_address(tmp_path):
    with pytest.raises(ValueError) as error:
        prepare("bffhq", tmp_path, 0.5)
    assert str(error.value) == (
        f"{tmp_path}/raw/bffhq lacks 0.5pct/align, 0.5pct/conflict, valid, test. Get BFFHQ from "
        "the Google Drive folder of github.com/kakaoenterprise/Learning-Debiased-Disentangled "
        "(ratios 1, 2 and 5: of github.com/kakaoenterprise/BiasEnsemble) and unpack it so that "
        "this folder holds 0.5pct/{align,conflict}/CLASS/ID_LABEL_ATTRIBUTE.png (or 1pct, 2pct, "
        "5pct), valid/ and test/."
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0.5pct/align/0/12_1_1", "label 1 and attribute 1 in the name contradict the folders"),
        ("0.5pct/align/0/12_0_1", "label 0 and attribute 1 in the name contradict the folders"),
        ("0.5pct/conflict/1/12_1_1", "label 1 and attribute 1 in the name contradict the folders"),
        ("0.5pct/align/0/12", "the name does not end in _LABEL_ATTRIBUTE"),
        (
            "valid/a_2_0",
            "the label must be below 2 and the attribute below 2, but they are 2 and 0",
        ),
    ],
)
def test_names_that_cannot_be_right_are_refused(tmp_path, tree, write_image, name, message):
    make_tree(tree, write_image)
    write_image(tree / f"{name}.png")
    with pytest.raises(ValueError) as error:
        prepare("bffhq", tmp_path, 0.5)
    assert str(error.value) == f"{tree / name}.png: {message}"


def test_an_empty_folder_is_named(tmp_path, tree, write_image):
    make_tree(tree, write_image)
    for path in (tree / "0.5pct/conflict").glob("*/*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"^.*/conflict holds no .jpg or .png file at \*/\*$"):
        prepare("bffhq", tmp_path, 0.5)


def test_a_damaged_image_leaves_no_arrays(tmp_path, tree, write_image):
    make_tree(tree, write_image)
    damaged = tree / "test/test1_1_1.png"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"^cannot read {damaged}, image 8 of 8: "):
        prepare("bffhq", tmp_path, 0.5)
    assert not list((tmp_path / "arrays").rglob("*.npy"))
    assert describe("bffhq", tmp_path, 0.5) is None
