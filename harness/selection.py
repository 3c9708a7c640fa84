"""Rules that choose among trials and checkpoints from what they recorded.

None that can be named reads the test split; the oracle does, and only reports make one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from harness.ledger import Record


class Rule(NamedTuple):
    """A split and a metric on it, higher being better."""

    name: str
    split: str
    metric: str
    needs_bias_labels: bool
    doc: str

    def value(self, record: Record, aligned: list[list[bool]], look: int = -1) -> float:
        """The metric at one look, in [0, 1]; NaN where the split was not evaluated then."""
        if self.split not in record.looks[look].correct:
            return math.nan
        return record.evaluation(self.split, aligned, look).metric(self.metric)


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

LAST = "last"
"""The checkpoint rule that takes the last look, whatever it shows."""

CHECKPOINTS = (LAST, *RULES)
"""Names of the rules that choose among the looks of a run."""


def oracle(metric: str) -> Rule:
    """The rule that reads the test result it is judged by: a bound, not a choice one can make."""
    return Rule(
        "oracle", "test", metric, True, "the test result itself, known to nobody who chooses"
    )


def best(values: Sequence[float]) -> int | None:
    """Position of the highest value, the earliest of equals; None if no value is a number."""
    numbers = [position for position, value in enumerate(values) if math.isfinite(value)]
    return max(numbers, key=lambda position: values[position]) if numbers else None


def best_look(record: Record, checkpoint: str, aligned: list[list[bool]]) -> int:
    """Position of the look that a rule of CHECKPOINTS picks, the earliest of equals.

    Raises:
        ValueError: The rule has no value at any look.
    """
    looks = range(len(record.looks))
    if checkpoint == LAST:
        return looks[-1]
    rule = RULES[checkpoint]
    chosen = best([rule.value(record, aligned, look) for look in looks])
    if chosen is None:
        raise ValueError(
            f"checkpoint rule {checkpoint} has no value at any look of {record.key}: the split "
            f"{rule.split} is missing or has no sample to speak of; use {LAST}"
        )
    return chosen
