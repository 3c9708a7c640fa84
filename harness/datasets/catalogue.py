"""The data sets by name."""

import difflib

from harness.datasets import cifar10c, cmnist, synthetic
from harness.datasets.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    module.RECIPE.name: module.RECIPE for module in (cmnist, cifar10c, synthetic)
}


def get(name: str) -> Recipe:
    """Returns a recipe.

    Raises:
        ValueError: No data set has this name; says which are near and which there are.
    """
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown data set {name!r}.{hint} Available: {', '.join(sorted(RECIPES))}")
