"""Servers that belong together, shared by the tests of a process that may break them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import redis

from support.server import require


class Together(Protocol):
    """A cluster, or servers and their sentinels."""

    def heal(self) -> None:
        """Be whole and empty."""

    def views(self) -> list[str]:
        """Say what is wrong, for whoever looks into it."""

    def stop(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


T = TypeVar("T", bound=Together)


class Running(Generic[T]):
    """One of them for each server program, started when first asked for."""

    def __init__(self, stack: ExitStack, make: Callable[[str], T]) -> None:
        self._stack = stack
        self._make = make
        self._running: dict[str, T] = {}

    def get(self, name: str) -> T:
        """Return them, whole and empty: new ones where a test has broken them for good."""
        require(name)
        if running := self._running.get(name):
            try:
                running.heal()
            except (AssertionError, RuntimeError, redis.RedisError) as reason:
                # What a test did to them is that test's business, and none of the next one.
                kind = type(running).__name__
                print(f"a new {kind}, for {reason}:", *running.views(), sep="\n", file=sys.stderr)
                self._running.pop(name).stop()
            else:
                return running
        new = self._make(name)
        self._stack.enter_context(new)
        self._running[name] = new
        new.heal()
        return new
