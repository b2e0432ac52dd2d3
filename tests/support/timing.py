"""Time limits in tests, and things that happen meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

#: Limits hold on a quiet machine; .ci/run, whose machine is anybody's, allows so many times that.
SLACK = float(os.environ.get("REDFLOE_TEST_SLACK", "1"))


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer."""
    watch = Stopwatch()
    yield
    took = watch.seconds
    seconds *= SLACK
    assert took <= seconds, f"took {took:.2f} s instead of at most {seconds:g} s"


@contextmanager
def later(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Do something in another thread while the block runs; its exception fails the test."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    timer = threading.Timer(seconds, run)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
    if failures:
        raise failures[0]


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Do something over and over in another thread while the block runs."""
    done = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not done.is_set():
                act()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failures:
        raise failures[0]


@contextmanager
def in_thread(act: Callable[[], object]) -> Iterator[Callable[[], Any]]:
    """Run something in a thread; what this gives waits for the outcome."""
    outcome: list[Any] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(act())
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(30)
        assert not thread.is_alive(), "it hangs"
        if failures:
            raise failures[0]
        return outcome[0]

    yield result


def eventually(holds: Callable[[], object], *, seconds: float = 5.0) -> None:
    """Wait until it holds; fail if it does not."""
    watch = Stopwatch()
    seconds *= SLACK
    while not holds():
        assert watch.seconds < seconds, f"still not so after {seconds:g} s"
        time.sleep(0.01)
