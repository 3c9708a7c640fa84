import hashlib

import numpy as np
import pytest
from PIL import Image

from harness.datasets import celeba, describe, get, load, prepare
from harness.datasets.recipe import silent

PER_CELL = {  # (blond, male) to images of train, valid, test
    (0, 0): (9, 4, 2),
    (0, 1): (8, 4, 2),
    (1, 0): (4, 3, 2),
    (1, 1): (1, 2, 1),
}
COLUMNS = "5_o_Clock_Shadow Blond_Hair Chubby Male Young"


def make_tree(root, write_image):
    """The two text files and a JPEG per row; returns (blond, male, part) of each, in order."""
    folder = root / "raw/celeba"
    faces = [
        (*cell, part)
        for part in range(3)
        for cell, counts in PER_CELL.items()
        for _ in range(counts[part])
    ]
    order = np.random.default_rng(4).permutation(len(faces))
    faces = [faces[n] for n in order]
    rows, parts = [], []
    for number, (blond, male, part) in enumerate(faces, 1):
        write_image(folder / f"img_align_celeba/{number:06}.jpg", 218, 178)
        fields = (-1, 2 * blond - 1, 1, 2 * male - 1, -1)
        rows.append(f"{number:06}.jpg " + " ".join(f"{field:2}" for field in fields))
        parts.append(f"{number:06}.jpg {part}")
    table = "\n".join([str(len(faces)), f"{COLUMNS} ", *rows, ""])
    (folder / "list_attr_celeba.txt").write_text(table)
    (folder / "list_eval_partition.txt").write_text("\n".join([*parts, ""]))
    return faces


@pytest.fixture(autouse=True)
def few_are_kept(monkeypatch):
    monkeypatch.setattr(celeba, "KEPT", 5)


def test_labels_are_hair_and_attributes_gender(tmp_path, write_image):
    faces = make_tree(tmp_path, write_image)
    splits = celeba.build(tmp_path, 3.64, 0, silent)
    for name, part in (("train", 0), ("valid_biased", 1), ("valid_unbiased", 1), ("test", 2)):
        split = splits[name]
        for path, label, attribute in zip(
            split.images.paths, split.labels, split.attributes, strict=True
        ):
            assert faces[int(path.stem) - 1] == (label, attribute, part)
        assert [int(path.stem) - 1 for path in split.images.paths] == split.ids.tolist()
        assert split.ids.tolist() == sorted(split.ids.tolist())


def test_only_women_without_blond_hair_are_subsampled_and_only_in_training(tmp_path, write_image):
    faces = make_tree(tmp_path, write_image)
    prepare("celeba", tmp_path, 3.64)
    assert describe("celeba", tmp_path, 3.64)["groups"] == {
        "train": [[5, 8], [4, 1]],
        # n = 11 of 18: floor(11 * 5/18), floor(11 * 8/18), …; with 12 the second would be 5 > 4
        "valid_biased": [[3, 4], [2, 0]],
        "valid_unbiased": [[2, 2], [2, 2]],
        "test": [[2, 2], [2, 1]],
    }
    women = [n for n, face in enumerate(faces) if face == (0, 0, 0)]
    others = [n for n, face in enumerate(faces) if face[2] == 0 and face[:2] != (0, 0)]
    kept = [celeba.build(tmp_path, 3.64, seed, silent)["train"].ids for seed in range(60)]
    for ids in kept:
        assert set(ids) >= set(others) and set(ids) <= {*others, *women}
    assert len({tuple(ids) for ids in kept}) > 30
    times = [sum(woman in ids for ids in kept) for woman in women]
    assert max(abs(each - 60 * 5 / 9) for each in times) < 4 * (60 * 5 / 9 * 4 / 9) ** 0.5


def test_all_women_are_kept_when_there_are_few(tmp_path, write_image, monkeypatch):
    make_tree(tmp_path, write_image)
    monkeypatch.setattr(celeba, "KEPT", 2000)
    assert len(celeba.build(tmp_path, 3.64, 0, silent)["train"].ids) == 22


def test_aligned_means_unequal_here(tmp_path, write_image):
    make_tree(tmp_path, write_image)
    data = load("celeba", tmp_path, 3.64)
    assert data.aligned.tolist() == [[False, True], [True, False]]
    assert data.conflicting().equal(data.train.labels == data.train.attributes)
    assert data.conflicting().sum() == 6


def test_images_are_stored_as_they_are(tmp_path, write_image):
    make_tree(tmp_path, write_image)
    data = load("celeba", tmp_path, 3.64)
    assert data.train.images.shape == (18, 3, 218, 178)
    first = celeba.build(tmp_path, 3.64, 0, silent)["train"].images.paths[0]
    with Image.open(first) as image:
        expected = np.asarray(image).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.train.images[0], expected)
    assert data.transform(data.train.images[:2], augment=True).shape == (2, 3, 224, 224)
    assert get("celeba").image_shape == (3, 224, 224)


def test_the_manifest_has_the_checksums_of_the_tables(tmp_path, write_image):
    make_tree(tmp_path, write_image)
    prepare("celeba", tmp_path, 3.64)
    sources = describe("celeba", tmp_path, 3.64)["sources"]
    table = (tmp_path / "raw/celeba/list_attr_celeba.txt").read_bytes()
    assert sources["celeba/list_attr_celeba.txt"] == hashlib.md5(table).hexdigest()
    assert set(sources) == {
        "celeba/list_attr_celeba.txt",
        "celeba/list_eval_partition.txt",
        "names and sizes of the train images",
        "names and sizes of the valid_biased images",
        "names and sizes of the valid_unbiased images",
        "names and sizes of the test images",
    }


def test_published_counts_are_those_of_the_official_partition():
    sizes = [sum(counts.values()) for counts in celeba.PUBLISHED]
    assert sizes == [162_770, 19_867, 19_962]
    train = celeba.PUBLISHED[0] | {(0, 0): 2_000}
    conflicting = train[0, 0] + train[1, 1]
    assert sum(train.values()) == 93_141
    assert round(100 * conflicting / 93_141, 2) == get("celeba").ratios[0]


def test_a_whole_table_with_other_counts_is_refused(tmp_path, write_image, monkeypatch):
    make_tree(tmp_path, write_image)
    published = [{cell: counts[part] for cell, counts in PER_CELL.items()} for part in range(3)]
    monkeypatch.setattr(celeba, "PUBLISHED", published)
    celeba.build(tmp_path, 3.64, 0, silent)
    published[2] = {(0, 0): 2, (0, 1): 1, (1, 0): 3, (1, 1): 1}
    with pytest.raises(ValueError) as error:
        celeba.build(tmp_path, 3.64, 0, silent)
    assert str(error.value) == (
        "CelebA: 2 test images have label 0 and attribute 1, but 1 were published; its table was "
        "altered"
    )
    published[2][0, 1] = 40  # not the published number of images: nothing to compare
    celeba.build(tmp_path, 3.64, 0, silent)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("attr", "42\n", "43\n", "43 images announced, 42 and 42 listed"),
        ("eval", "000042.jpg", "000042.jpg 0\n000043.jpg", "42 images announced, 42 and 43 listed"),
        ("attr", "000007.jpg", "000070.jpg", "000070.jpg in one stands beside '000007.jpg"),
        ("eval", "000001.jpg ", "000001.jpg 1", "000001.jpg in one stands beside '000001.jpg 1"),
        ("attr", "Blond_Hair", "Blonde", "'Blond_Hair' is not in list"),
        ("attr", "000001.jpg -1", "000001.jpg -1  0", "'0'"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, write_image, file, old, new, message):
    make_tree(tmp_path, write_image)
    (path,) = (tmp_path / "raw/celeba").glob(f"list_{file}*")
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError) as error:
        celeba.build(tmp_path, 3.64, 0, silent)
    assert "are not as published, or not whole: " + message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_tree_comes_with_its_address(tmp_path):
    with pytest.raises(ValueError) as error:
        prepare("celeba", tmp_path, 3.64)
    assert str(error.value) == (
        f"{tmp_path}/raw/celeba lacks img_align_celeba, list_attr_celeba.txt, "
        "list_eval_partition.txt. Get CelebA (aligned and cropped images) from "
        "mmlab.ie.cuhk.edu.hk/projects/CelebA.html and unpack it so that this folder holds "
        "img_align_celeba/000001.jpg and so on, list_attr_celeba.txt and list_eval_partition.txt."
    )


def test_another_size_is_refused(tmp_path, write_image):
    make_tree(tmp_path, write_image)
    for path in (tmp_path / "raw/celeba/img_align_celeba").iterdir():
        write_image(path, 64, 64)
    with pytest.raises(ValueError, match="image 1 of 18: 64x64 pixels instead of 178x218"):
        prepare("celeba", tmp_path, 3.64)
