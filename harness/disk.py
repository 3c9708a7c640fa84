"""Writing files so that a reader sees all of one or none of it, and notices a changed byte.

"Durably" means that the data, and the name it was put under, outlast a power cut when the function
returns.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SEAL = ',"seal":"'
_EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


def is_disk_failure(error: OSError) -> bool:
    """Whether the disk is at fault (full, over quota, read-only, broken), not who wrote to it."""
    return error.errno in _EXHAUSTED


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turns a full or read-only disk into one line that says what to do.

    Raises:
        ValueError: Writing below `folder` failed.
    """
    try:
        yield
    except OSError as error:
        # numpy has words of its own for a file that the disk had no more room for.
        reason = error.strerror or f"No space left on device ({error})"
        raise ValueError(
            f"cannot write to {folder}: {reason}. Free some space, or set HARNESS_DATA to a folder "
            "that you may write to."
        ) from error


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Writes a whole file and has the disk confirm it.

    Raises:
        OSError: It could not be written; names the path.
    """
    try:
        with path.open("wb", buffering=0) as file:
            write_all(file.fileno(), content)
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Writes every byte; the system may take fewer at a time, as on a disk that is nearly full."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def sync_folder(folder: Path) -> None:
    """Has the disk confirm what was created, renamed or removed in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_atomically(path: Path, content: bytes | memoryview) -> None:
    """Puts a file in place durably in one step, over whatever was there.

    Raises:
        OSError: It could not be written; what was there still is.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        write_durably(partial, content)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def scratch_folder(name: Path) -> Iterator[Path]:
    """An empty folder to fill and :func:`move_into_place`; removed at the end if still there.

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


def move_into_place(partial: Path, name: Path) -> None:
    """Gives a filled scratch folder its name durably, in place of a folder that was there."""
    shutil.rmtree(name, ignore_errors=True)
    partial.rename(name)
    sync_folder(name.parent)


def seal(data: dict[str, Any], indent: int | None = None) -> str:
    """One JSON object whose last member is the sha256 of the text before it."""
    text = json.dumps(data, indent=indent, separators=None if indent else (",", ":"))[:-1]
    return f'{text}{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}"}}'


def unseal(text: str) -> dict[str, Any]:
    """What :func:`seal` was given; text without a seal, as older versions wrote it, is taken as is.

    Raises:
        ValueError: It is no JSON object, or not as it was written.
    """
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    if data.pop("seal", None) is not None:
        body, _, rest = text.rpartition(_SEAL)
        if rest.strip() != f'{hashlib.sha256(body.encode()).hexdigest()}"}}':
            raise ValueError("it is not as it was written")
    return data


def is_sealed(text: str) -> bool:
    """Whether a changed byte would be noticed."""
    return _SEAL in text


def sha256(path: Path) -> str:
    """Returns the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
