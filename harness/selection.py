"""Rules that choose among trials from what they recorded; none reads the test split."""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """A validation split and a metric on it, higher being better."""

    name: str
    split: str
    metric: str
    needs_bias_labels: bool
    doc: str


RULES = {
    rule.name: rule
    for rule in (
        Rule(
            "unbiased", "valid_unbiased", "accuracy", True,
            "accuracy on validation images whose attribute is drawn uniformly",
        ),
        Rule(
            "worst-group", "valid_unbiased", "worst_group_accuracy", True,
            "accuracy of the worst group of the unbiased validation split",
        ),
        Rule(
            "ac", "valid_biased", "ac_score", True,
            "harmonic mean of aligned and conflicting accuracy, train-biased validation split",
        ),
        Rule(
            "average", "valid_biased", "accuracy", False,
            "accuracy on validation images biased like the training set",
        ),
        Rule(
            "worst-class", "valid_biased", "worst_class_accuracy", False,
            "accuracy of the worst class of the train-biased validation split",
        ),
    )
}  # fmt: skip
DEFAULT_RULE = "unbiased"
