"""What is written is there whole or not at all, and a changed byte is noticed."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.disk import (
    is_disk_failure,
    move_into_place,
    replace_atomically,
    scratch_folder,
    seal,
    unseal,
    write_all,
    write_durably,
)

DATA = {"name": "a “b”", "numbers": [0.1 + 0.2, 1e-300, float("inf")], "seal": "its own", "n": None}


@pytest.mark.parametrize("indent", [None, 1, 2])
@pytest.mark.parametrize("data", [{"a": 1}, {k: v for k, v in DATA.items() if k != "seal"}])
def test_what_is_sealed_is_read_back(data, indent):
    text = seal(data, indent)
    assert unseal(text) == data
    assert list(json.loads(text)) == [*data, "seal"]
    assert ("\n" in text) == bool(indent)


def test_no_changed_missing_or_added_byte_is_read_as_another_value():
    text = seal({"correct": [[10, 2], [3, 44]], "settings": {"lr": 0.01}})
    for place in range(len(text)):
        damaged = [text[:place] + text[place + 1 :], text[:place] + "7" + text[place:]]
        damaged += [text[:place] + chr(ord(text[place]) ^ (1 << bit)) + text[place + 1 :]
                    for bit in range(7)]  # fmt: skip
        for each in damaged:
            try:
                read = unseal(each)
            except ValueError:
                continue
            # What is still taken has lost its seal in name, and shows it.
            assert read.keys() - {"correct", "settings"} or read == unseal(text), each


def test_what_has_no_seal_is_of_an_older_version_and_read():
    assert unseal('{"a": 1}') == {"a": 1}
    for text in ("", "[]", "1", "null", "{", '{"a": 1} x'):
        with pytest.raises(ValueError):
            unseal(text)


def test_a_file_is_replaced_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    replace_atomically(path, b"old")
    real = os.write

    def full(descriptor: int, content: memoryview) -> int:
        if len(content) < 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content[:5])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError) as caught:
        replace_atomically(path, b"something new")
    assert caught.value.filename and is_disk_failure(caught.value)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    replace_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_all_is_written_however_little_the_system_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, content[:3]))
    write_durably(tmp_path / "file", bytes(range(100)))
    assert (tmp_path / "file").read_bytes() == bytes(range(100))


def test_a_real_file_limit_is_named_with_its_path(tmp_path: Path) -> None:
    """RLIMIT_FSIZE is not the disk's failure, but it fails a real write half way."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from harness.disk import replace_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    replace_atomically(Path(sys.argv[1]), b'x' * 5000)\n"
        "except OSError as error:\n    print(error.filename)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "file")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert str(tmp_path) in done.stdout
    assert not os.listdir(tmp_path)


def test_a_scratch_folder_takes_the_place_of_what_is_there(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with scratch_folder(tmp_path / "name") as partial:
            (partial / "file").write_text(text)
            move_into_place(partial, tmp_path / "name")
    assert (tmp_path / "name" / "file").read_text() == "two"
    with pytest.raises(RuntimeError), scratch_folder(tmp_path / "name"):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["name"]


@pytest.mark.parametrize(
    ("number", "disk"),
    [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EROFS, True), (errno.EIO, True),
     (errno.ENOENT, False), (errno.EACCES, False), (errno.EMFILE, False)],
)  # fmt: skip
def test_whose_fault_it_is(number: int, disk: bool) -> None:
    assert is_disk_failure(OSError(number, "…")) is disk


def test_write_all_passes_errors_on() -> None:
    with pytest.raises(OSError):
        write_all(-1, b"x")
