"""SIGTERM and SIGINT: the first asks for a clean stop, a second SIGINT interrupts."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class StopSignals:
    """Handlers of both signals, from `install` to `restore`. In the main thread only.

    A SIGTERM never interrupts: supervisors and process groups send it more than once, and have
    SIGKILL for a worker that takes too long. A second SIGINT is somebody at a keyboard.

    Attributes
    ----------
    cancelled : bool
        Whether the task has been cancelled on behalf of a second SIGINT.
    """

    @classmethod
    def install(cls, stop: Callable[[], object], task: asyncio.Task[Any] | None = None) -> Self:
        """Have the first call `stop`, and a second SIGINT interrupt `task`, or the thread."""
        signals = cls(stop, task)
        for number in signals._before:
            signal.signal(number, signals._come)
        return signals

    def __init__(self, stop: Callable[[], object], task: asyncio.Task[Any] | None) -> None:
        self._stop = stop
        self._task = task
        self._signalled = False
        self._before = {
            number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
        }
        self.cancelled = False

    def restore(self) -> None:
        """Have the handlers as they were."""
        for number, handler in self._before.items():
            if handler is not None:  # one that was not set from Python
                signal.signal(number, handler)

    def _come(self, number: int, _: object) -> None:
        interrupts = self._signalled and number == signal.SIGINT
        self._signalled = True
        if not interrupts:
            self._stop()
        elif self._task is None or self.cancelled:
            # A third one, in an event loop: something keeps it from cancelling the task.
            raise KeyboardInterrupt
        else:
            self.cancelled = True
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
