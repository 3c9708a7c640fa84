"""Writing files so that a reader sees all of one or none of it."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turns a full or read-only disk into one line that says what to do.

    Raises:
        ValueError: Writing below `folder` failed.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder}: {error.strerror or error}. Free some space, or set "
            "HARNESS_DATA to a folder that you may write to."
        ) from error


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Writes a whole file and has the disk confirm it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_atomically(path: Path, content: bytes) -> None:
    """Puts a file in place in one step, over whatever was there."""
    partial = path.with_name(f".{path.name}.partial")
    write_durably(partial, content)
    partial.replace(path)


@contextmanager
def scratch_folder(name: Path) -> Iterator[Path]:
    """An empty folder to fill and move to its name; what is left of it at the end is removed.

    It lies beside `name`, so that the move is one step, and takes the place of what an earlier
    process left there when it was killed.
    """
    partial = name.with_name(f".{name.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sha256(path: Path) -> str:
    """Returns the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
