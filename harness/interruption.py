"""How work is stopped from outside: by signals, by its time limit."""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.console import say
from harness.schedule import INTERRUPTED, Schedule


@contextmanager
def stopping(schedule: Schedule) -> Iterator[None]:
    """The first Ctrl-C gives out no more work; the second, or SIGTERM, stops what is running."""
    presses = 0

    def interrupt(*_: object) -> None:
        nonlocal presses
        presses += 1
        schedule.halt(INTERRUPTED)
        if presses == 1:
            running = len(schedule.running)
            say(f"no new run is started; Ctrl-C again stops the {running} that are under way")
        elif presses == 2:
            signal.raise_signal(signal.SIGUSR1)  # on which Tune stops its trials and returns
        else:
            raise KeyboardInterrupt

    def terminate(*_: object) -> None:
        schedule.halt(INTERRUPTED)
        signal.raise_signal(signal.SIGUSR1)

    def not_yet_tuning(*_: object) -> None:
        raise KeyboardInterrupt

    handlers = {
        signal.SIGINT: interrupt,
        signal.SIGTERM: terminate,
        signal.SIGUSR1: not_yet_tuning,  # until Tune takes it over; by default it would kill
    }
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def time_limited(seconds: float | None, stack_file: Path) -> Iterator[None]:
    """Ends this process when the time is over, with the stacks of its threads in a file.

    Nothing gentler ends a thread that hangs in native code.
    """
    if seconds is None:
        yield
        return
    with stack_file.open("w") as file:
        faulthandler.dump_traceback_later(seconds, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            stack_file.unlink(missing_ok=True)
