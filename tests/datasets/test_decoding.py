import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from harness.datasets import decoding
from harness.datasets.decoding import ImageFiles
from harness.datasets.recipe import silent


def stored(files, path):
    files.save(path, silent, "decoding")
    return np.load(path)


def test_what_is_written_is_what_numpy_writes(tmp_path, write_image, monkeypatch):
    monkeypatch.setattr(decoding, "BATCH", 3)
    paths = tuple(tmp_path / f"{n}.png" for n in range(7))
    pixels = np.stack([write_image(path, 5, 9) for path in paths])
    ImageFiles(paths, (5, 9), "exact").save(tmp_path / "streamed.npy", silent, "")
    np.save(tmp_path / "whole.npy", np.ascontiguousarray(pixels))
    assert (tmp_path / "streamed.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("threads", [2, 4])
def test_the_number_of_threads_changes_nothing(tmp_path, write_image, monkeypatch, threads):
    paths = tuple(tmp_path / f"{n}.jpg" for n in range(40))
    for n, path in enumerate(paths):
        write_image(path, 8 + n, 50 - n)
    files = ImageFiles(paths, (12, 12), "centre")
    monkeypatch.setattr(decoding, "THREADS", 1)
    expected = stored(files, tmp_path / "one.npy")
    monkeypatch.setattr(decoding, "THREADS", threads)
    np.testing.assert_array_equal(stored(files, tmp_path / "many.npy"), expected)


@pytest.mark.parametrize("shape", [(30, 40), (40, 30), (9, 25), (16, 16), (50, 19)])
@pytest.mark.parametrize(
    ("files", "transform"),
    [
        (((16, 16), "resize"), transforms.Resize((16, 16))),
        (((10, 18), "resize"), transforms.Resize((10, 18))),
        (((16, 16), "centre"), [transforms.Resize(16), transforms.CenterCrop(16)]),
        (((16, 16), "centre", 3), [transforms.Resize(22), transforms.CenterCrop(16)]),
        (((16, 16), "resize", 3), [transforms.Resize((22, 22)), transforms.CenterCrop(16)]),
    ],
)
def test_fitting_is_that_of_torchvision(tmp_path, write_image, shape, files, transform):
    write_image(tmp_path / "image.png", *shape)
    steps = transform if isinstance(transform, list) else [transform]
    with Image.open(tmp_path / "image.png") as image:
        expected = np.asarray(transforms.Compose(steps)(image)).transpose(2, 0, 1)
    made = stored(ImageFiles((tmp_path / "image.png",), *files), tmp_path / "made.npy")[0]
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    colours = Image.effect_mandelbrot((12, 8), (-2, -1.5, 1, 1.5), 50)
    image = Image.merge("RGB", [colours, colours.rotate(180), colours.rotate(90)]).convert(mode)
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image.save(path)
    made = stored(ImageFiles((path,), (8, 12), "exact"), tmp_path / "made.npy")[0]
    assert made.shape == (3, 8, 12)
    with Image.open(path) as reread:
        np.testing.assert_array_equal(made, np.asarray(reread.convert("RGB")).transpose(2, 0, 1))
    assert (made[0] == made[1]).all() == (mode in ("1", "L", "LA"))


def test_alpha_is_dropped_and_rotation_flags_are_ignored(tmp_path):
    image = Image.new("RGBA", (6, 4), (10, 20, 30, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # "rotate by 90 degrees to view"
    image.save(tmp_path / "image.png", exif=exif)
    made = stored(ImageFiles((tmp_path / "image.png",), (4, 6), "exact"), tmp_path / "made.npy")
    assert (made == np.array([10, 20, 30])[None, :, None, None]).all()


def cut(path):
    path.write_bytes(path.read_bytes()[:-60])


def flip_bits(path):
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)


def make_deep(path):
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(path)


@pytest.mark.parametrize(
    ("suffix", "damage", "reason"),
    [
        ("png", lambda path: path.unlink(), "no such file"),
        ("jpg", cut, "truncated"),
        ("png", cut, "truncated"),
        ("png", flip_bits, ""),
        ("png", lambda path: path.write_bytes(b""), "cannot identify image file"),
        ("jpg", lambda path: path.write_text("<html>"), "cannot identify image file"),
        ("png", make_deep, "more than 8 bits per channel"),
        ("png", lambda path: Image.new("RGB", (17, 16)).save(path), "17x16 pixels instead of 16x1"),
    ],
)
def test_an_unreadable_image_is_named(tmp_path, write_image, suffix, damage, reason):
    paths = tuple(tmp_path / f"{n}.{suffix}" for n in range(5))
    for path in paths:
        write_image(path)
    damage(paths[3])
    with pytest.raises(ValueError) as error:
        stored(ImageFiles(paths, (16, 16), "exact"), tmp_path / "made.npy")
    message = str(error.value)
    assert message.startswith(f"cannot read {paths[3]}, image 4 of 5: ")
    assert reason in message and "\n" not in message


@pytest.mark.parametrize("limit", [200, 100])  # a warning and an error to Pillow
def test_an_image_of_absurd_size_is_refused(tmp_path, write_image, monkeypatch, limit):
    write_image(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    before = warnings.filters[:]
    with pytest.raises(ValueError, match="bomb.png, image 1 of 1: .*decompression bomb"):
        stored(ImageFiles((tmp_path / "bomb.png",), (16, 16)), tmp_path / "made.npy")
    assert warnings.filters == before


def test_a_centre_crop_is_square():
    with pytest.raises(ValueError, match=r"must be square, but is \(4, 5\)"):
        ImageFiles((), (4, 5), "centre")


def test_a_split_is_never_in_memory(tmp_path, write_image, monkeypatch):
    """64 images of 192 kB make 12 MB, of which 4 are decoded at a time."""
    monkeypatch.setattr(decoding, "BATCH", 4)
    write_image(tmp_path / "image.png")
    files = ImageFiles((tmp_path / "image.png",) * 64, (256, 256))
    tracemalloc.start()
    files.save(tmp_path / "made.npy", silent, "")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6


def test_progress_is_reported_per_batch(tmp_path, write_image, monkeypatch):
    monkeypatch.setattr(decoding, "BATCH", 4)
    write_image(tmp_path / "image.png")
    seen = []
    files = ImageFiles((tmp_path / "image.png",) * 9, (16, 16))
    files.save(tmp_path / "made.npy", lambda *call: seen.append(call), "faces")
    assert seen == [("faces", 4, 9), ("faces", 8, 9), ("faces", 9, 9)]


def test_a_full_disk_is_an_error(tmp_path, write_image):
    write_image(tmp_path / "image.png")
    with pytest.raises(OSError, match="No space left on device"):
        ImageFiles((tmp_path / "image.png",) * 9, (16, 16)).save(Path("/dev/full"), silent, "")


def test_rows_are_taken_as_from_an_array(tmp_path, write_image):
    paths = tuple(tmp_path / f"{n}.png" for n in range(5))
    pixels = np.stack([write_image(path) for path in paths])
    rows = np.array([4, 0, 0])
    taken = ImageFiles(paths, (16, 16), "exact")[rows]
    assert len(taken) == 3
    np.testing.assert_array_equal(stored(taken, tmp_path / "made.npy"), pixels[rows])


def test_the_digest_follows_names_and_sizes_but_not_the_place(tmp_path, write_image):
    def digest(root, **names):
        for name, size in names.items():
            (tmp_path / root / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / root / name / "image.png").write_bytes(bytes(size))
        return ImageFiles(
            tuple(tmp_path / root / name / "image.png" for name in names), (1, 1)
        ).digest()

    first = digest("here", a=3, b=5)
    assert digest("there", a=3, b=5) == first
    assert len({first, digest("1", a=3, c=5), digest("2", a=3, b=4), digest("3", a=3)}) == 4
