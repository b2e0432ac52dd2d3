"""Processes that run an app: started, started again when they die, and stopped together."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: The first pause before a worker is started again, and the longest, in seconds.
_PAUSES = (0.1, 30.0)
#: After how many seconds of work the next pause is the first one again.
_HEALTHY = 10.0
#: How much longer than its handlers a worker may take to give back what it has, in seconds.
_LEAVING = 10.0
#: How long to listen to a worker that has ended, in seconds.
_LISTENING = 0.5
#: What a worker ends with that cannot load its app.
CANNOT_LOAD = 2


class Supervisor:
    """Keeps workers running until SIGTERM or SIGINT.

    Parameters
    ----------
    target : str
        Where the app is: ``"package.module:app"``.
    workers : int
        How many processes there are.
    grace : float or None
        The app's `grace`; None for what it says itself.
    report : callable
        Told what happens to workers.
    """

    def __init__(
        self, target: str, workers: int, grace: float | None, report: Callable[[str], object]
    ) -> None:
        self._target = target
        self._workers = workers
        self._grace = grace
        self._report = report
        self._stopping = asyncio.Event()
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        #: What workers have said of themselves, since their start.
        self._said: dict[int, dict[str, Any]] = {}
        #: The workers whose app has ended well, as they have said: exit code 0 may be a handler's.
        self._drained: set[int] = set()
        #: The workers whose last run failed.
        self._failed: set[int] = set()
        self._was_killed = False

    async def run(self) -> int:
        """Run until all workers have ended; give the exit code.

        0: all have ended well; 1: the app could not be loaded, or a worker's last run failed; 137:
        a worker took longer than the grace time, and was killed.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        try:
            await asyncio.gather(*(self._keep(one) for one in range(1, self._workers + 1)))
        finally:
            self._send(signal.SIGKILL)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        return 128 + signal.SIGKILL if self._was_killed else int(bool(self._failed))

    def _signalled(self, number: int) -> None:
        if not self._stopping.is_set():
            self._stop()
        elif number == signal.SIGINT:  # somebody at a keyboard who does not want to wait
            self._send(signal.SIGINT)

    def _stop(self) -> None:
        self._stopping.set()
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for process in self._processes.values():
            _send(process, number)

    async def _keep(self, worker: int) -> None:
        """Run a worker, again and again unless it ends well."""
        failures = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._work(worker)
            self._failed.discard(worker)
            if code == 0 and worker in self._drained:
                return
            if code == -signal.SIGTERM and self._stopping.is_set():
                return  # it was told to end before it had begun
            self._failed.add(worker)
            if code == CANNOT_LOAD and worker not in self._said:
                self._stop()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _HEALTHY:
                failures = 0
            pause = min(_PAUSES[0] * 2**failures, _PAUSES[1])
            failures += 1
            self._report(f"worker {worker} {_end(code)}, and starts again in {pause:g} s")
            try:
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    async def _work(self, worker: int) -> int:
        """Run a worker once; give its exit code."""
        self._drained.discard(worker)
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "redfloe._cli.worker", self._target, str(writing)),
                *(() if self._grace is None else (str(self._grace),)),
                stdin=asyncio.subprocess.PIPE,  # whose end tells it that its supervisor has died
                pass_fds=(writing,),
                start_new_session=True,  # a Ctrl-C comes from here, once
                env={**os.environ, "REDFLOE_WORKER": str(worker)},
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._processes[worker] = process
        if self._stopping.is_set():
            _send(process, signal.SIGTERM)
        listening = asyncio.create_task(self._listen(worker, reading))
        killing = asyncio.create_task(self._kill_late(worker, process))
        try:
            return await process.wait()
        finally:
            killing.cancel()
            # It has said what it had to; a process that it has left behind may keep the pipe open.
            await asyncio.wait([listening], timeout=_LISTENING)
            listening.cancel()
            del self._processes[worker]

    async def _listen(self, worker: int, pipe: int) -> None:
        """Hear what a worker says: of its app when that is loaded, and that it has ended well."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb")
        )
        try:
            if line := await reader.readline():
                self._begun(worker, json.loads(line))
                if await reader.readline():
                    self._drained.add(worker)
        finally:
            transport.close()

    def _begun(self, worker: int, said: dict[str, Any]) -> None:
        self._said[worker] = said
        same = [other for other in self._processes if other != worker and other in self._said]
        if any(self._said[other]["consumer"] == said["consumer"] for other in same):
            self._report(
                f"several workers are the consumer {said['consumer']!r}, and would take each "
                "other's messages; call it '{hostname}-{worker}', or leave its name out"
            )
            self._failed.add(0)
            self._stop()

    async def _kill_late(self, worker: int, process: asyncio.subprocess.Process) -> None:
        """Kill a worker that takes too long to end."""
        await self._stopping.wait()
        grace = self._said.get(worker, {}).get("grace", 0.0)
        await asyncio.sleep(grace + _LEAVING)
        self._report(f"worker {worker} took longer than {grace:g} s to end, and is killed")
        self._was_killed = True
        _send(process, signal.SIGKILL)


def _send(process: asyncio.subprocess.Process, number: int) -> None:
    """Send a signal to a worker, which may have ended a moment ago."""
    with suppress(ProcessLookupError):
        process.send_signal(number)


def _end(code: int) -> str:
    if code == 0:
        return "ended with exit code 0 before its app did"
    if code > 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
