"""The data sets by name."""

from harness.datasets import (
    bar,
    bffhq,
    biased_mnist,
    celeba,
    cifar10c,
    cmnist,
    cmnist_lff,
    folder,
    synthetic,
    table,
    waterbirds,
)
from harness.datasets.recipe import Family, Recipe, only
from harness.space import unknown

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        only(cmnist.RECIPE),
        cmnist_lff.FAMILY,
        only(biased_mnist.RECIPE),
        cifar10c.TYPE_ZERO,
        cifar10c.TYPE_ONE,
        only(bffhq.RECIPE),
        only(celeba.RECIPE),
        only(waterbirds.RECIPE),
        only(bar.RECIPE),
        only(bar.RECIPE_BE),
        only(synthetic.RECIPE),
        folder.FAMILY,
        table.FAMILY,
    )
}


def get(name: str) -> Recipe:
    """Returns the recipe of a data set typed as NAME or NAME:ARGUMENT.

    Raises:
        ValueError: No data set has this name, or its argument is wrong; says what there is.
    """
    family, _, argument = name.partition(":")
    if family not in FAMILIES:
        raise ValueError(unknown("data set", family, FAMILIES))
    return FAMILIES[family].recipe(argument)
