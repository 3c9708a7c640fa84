"""The data sets by name."""

from harness.datasets import cifar10c, cmnist, synthetic
from harness.datasets.recipe import Recipe
from harness.space import unknown

RECIPES: dict[str, Recipe] = {
    module.RECIPE.name: module.RECIPE for module in (cmnist, cifar10c, synthetic)
}


def get(name: str) -> Recipe:
    """Returns a recipe.

    Raises:
        ValueError: No data set has this name; says which are near and which there are.
    """
    if name not in RECIPES:
        raise ValueError(unknown("data set", name, RECIPES))
    return RECIPES[name]
