"""Entries that a producer has taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redfloe._checks import milliseconds_of_seconds
from redfloe._event_loop import completed

if TYPE_CHECKING:
    from collections.abc import Generator

    from redfloe import _core
    from redfloe._writing.producer import StreamProducer


class SentEntry:
    """An entry that a `StreamProducer` has taken: a future of its entry ID; made by `send`.

    ``result()`` waits for the ID, and so does ``await``, which takes no thread. You do not have to
    ask for it, and an entry that you do not ask about costs nothing more.

    Examples
    --------
    >>> import redfloe
    >>> with redfloe.StreamProducer(url, "clicks") as producer:
    ...     sent = producer.send({"user": "ada"})
    ...     entry_id = sent.result()
    >>> redfloe.read_stream(url, "clicks")["_id"].item() == entry_id
    True
    """

    __slots__ = ("_producer", "_sent")

    def __init__(self, producer: StreamProducer, sent: _core.Sent) -> None:
        self._producer = producer
        self._sent = sent

    def done(self) -> bool:
        """Say whether it is known what became of the entry: then `result` does not wait."""
        return self._sent.is_settled()

    def result(self, timeout: float | None = None) -> str | None:
        """Wait for the entry to be in, and give its ID.

        Parameters
        ----------
        timeout : float, optional
            How many seconds to wait at most. Giving up takes nothing back: ask again.

        Returns
        -------
        str or None
            The entry ID; None with `nomkstream` where the stream does not exist.

        Raises
        ------
        WriteError, OutcomeUnknownError
            It could not be written, or nobody knows; as for `StreamProducer.flush`.
        TimeoutError
            The time is over, and it is not known yet.
        """
        limit = None if timeout is None else milliseconds_of_seconds(timeout, "timeout")
        if limit is not None and limit < 0:
            msg = f"timeout must not be negative, but is {timeout}"
            raise ValueError(msg)
        if not self._sent.wait(limit):
            msg = f"the entry is not in after {timeout} s; it is still to be written"
            raise TimeoutError(msg)
        return self._outcome()

    def exception(self, timeout: float | None = None) -> Exception | None:
        """Wait, and give what `result` would raise instead of an ID; None where it is in."""
        try:
            self.result(timeout)
        except TimeoutError:
            if not self.done():
                raise
            return self._producer._failure()
        except Exception as error:  # noqa: BLE001 - it is what is asked for
            return error
        return None

    def __await__(self) -> Generator[Any, None, str | None]:
        """Wait for the entry to be in without a thread, and give its ID as `result` does."""
        return self._wait().__await__()

    async def _wait(self) -> str | None:
        await completed(self._sent.start_wait())
        return self._outcome()

    def _outcome(self) -> str | None:
        entry_id = self._sent.id()
        if entry_id is None:
            self._producer._check()
            msg = "the entry is neither in nor has its producer failed; please report this"
            raise RuntimeError(msg)
        return entry_id[0]

    def __repr__(self) -> str:
        entry_id = self._sent.id()
        if entry_id is not None:
            return f"<SentEntry {entry_id[0]}>"
        return f"<SentEntry {'failed' if self.done() else 'pending'}>"
