"""Biased data sets, built from official files and stored as verified arrays."""

import os
from pathlib import Path

from harness.datasets.catalogue import FAMILIES, get
from harness.datasets.recipe import Recipe
from harness.datasets.store import describe, folder_of, load, prepare

__all__ = [
    "FAMILIES",
    "Recipe",
    "default_root",
    "describe",
    "folder_of",
    "get",
    "load",
    "prepare",
]


def default_root() -> Path:
    """Returns the data folder: HARNESS_DATA, or ~/.cache/harness-data."""
    return Path(os.path.expanduser(os.environ.get("HARNESS_DATA") or "~/.cache/harness-data"))
