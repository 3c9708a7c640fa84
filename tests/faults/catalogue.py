"""The faults that are injected, by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from tests.faults.lab import Lab, Outcome

Inject = Callable[[Lab, random.Random], Outcome]


class Fault(NamedTuple):
    """Something that happens to a sweep.

    Attributes:
        injected: What is done, in words.
        times: How often the campaign does it.
        inject: Does it once, in a new store, and has the sweep finished.
    """

    name: str
    injected: str
    times: int
    inject: Inject


FAULTS: dict[str, Fault] = {}


def fault(name: str, injected: str, times: int) -> Callable[[Inject], Inject]:
    """Enters a function into `FAULTS`."""

    def enter(inject: Inject) -> Inject:
        FAULTS[name] = Fault(name, injected, times, inject)
        return inject

    return enter
