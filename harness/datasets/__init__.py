"""Biased data sets, built from official files and stored as verified arrays."""

import os
from pathlib import Path

from harness.datasets.catalogue import RECIPES, get
from harness.datasets.recipe import Recipe
from harness.datasets.store import describe, load, prepare

__all__ = ["RECIPES", "Recipe", "default_root", "describe", "get", "load", "prepare"]


def default_root() -> Path:
    """Returns the data folder: HARNESS_DATA, or ~/.cache/harness-data."""
    return Path(os.environ.get("HARNESS_DATA") or "~/.cache/harness-data").expanduser()
