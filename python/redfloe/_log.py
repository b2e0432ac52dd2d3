"""The logger `redfloe`: what the core has recorded, and what workers notice themselves.

No thread of the core calls Python, so its events wait until some thread or event loop runs in our
code: a thread that waits looks 20 times a second, an event loop is woken. A worker's handler may
keep all of them busy, so once there is one a thread of Python's looks as well. Nothing is
configured here, nor at import: without a handler Python prints warnings to stderr, and nothing
else.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

from redfloe import _core
from redfloe._words import counted, hint_for

if TYPE_CHECKING:
    from collections.abc import Mapping

_WHERE = "stream %(stream)s, group %(group)s: "
_PROCESSOR = "stream %(stream)s, processor %(processor)s: "
#: A worker's or a processor's.
_WHO = "stream %(stream)s, %(who)s: "

#: The level of each event, and its message, made of the event's fields.
EVENTS: dict[str, tuple[int, str]] = {
    "connected": (logging.DEBUG, "connected to %(address)s in %(seconds).3f s"),
    "master_changed": (
        logging.WARNING,
        "the sentinels name another master of %(master)s: %(address)s, and no longer %(former)s",
    ),
    "retry": (
        logging.INFO,
        "retry %(retry)d at %(address)s in %(seconds).1f s, because: %(error)s",
    ),
    "cluster_changed": (logging.INFO, "the masters of the cluster are %(masters)s"),
    "outage_began": (
        logging.WARNING,
        "stream %(stream)s: %(address)s fails (%(error)s); trying again until it is back",
    ),
    "outage_ended": (
        logging.WARNING,
        "stream %(stream)s: %(address)s is back after %(seconds).1f s, %(counted_failures)s",
    ),
    "reclaimed": (
        logging.INFO,
        _WHERE + "%(consumer)s took over %(counted_entries)s, pending for too long",
    ),
    "dead_lettered": (
        logging.WARNING,
        _WHERE + "%(counted_entries)s moved to %(dead_letter)s: %(entry_id)s, because: %(reason)s",
    ),
    "stream_created": (
        logging.WARNING,
        _WHERE + "both were created, the stream empty; must_exist=True raises if it does not exist",
    ),
    "fields_missing": (
        logging.WARNING,
        (
            "stream %(stream)s: none of %(counted_entries)s had %(missing)s; the latest had "
            "%(present)s; %(hint)s"
        ),
    ),
    "group_created": (logging.INFO, _WHERE + "the group was created, after %(after)s"),
    "group_lost": (logging.WARNING, _WHERE + "the group is gone, and created again (%(error)s)"),
    "data_lost": (logging.WARNING, "stream %(stream)s: going on although %(error)s"),
    "handler_failed": (
        logging.WARNING,
        _WHO + "the handler raised %(error)s, given %(first_id)s to %(last_id)s "
        "(%(entries)d in all)",
    ),
    "handler_failed_again": (
        logging.INFO,
        _WHO + "failure %(failures)d with these entries: %(error)s, given %(first_id)s to "
        "%(last_id)s (%(entries)d in all)",
    ),
    "handler_left": (
        logging.WARNING,
        _WHO + "a handler goes on although it was cancelled as the app ends: its messages "
        "come again",
    ),
    "slow_handler": (
        logging.WARNING,
        _WHERE + "%(consumer)s has had %(counted_entries)s in hand for %(seconds).1f s",
    ),
    "lease_expired": (
        logging.WARNING,
        _WHERE + "%(consumer)s has had %(counted_entries)s in hand for max_processing_ms "
        "(%(seconds).1f s): others may take them over now",
    ),
    "lane_acquired": (
        logging.INFO,
        _PROCESSOR + "it has the lane (epoch %(epoch)d), and goes on after %(position)s",
    ),
    "consumer_acquired": (
        logging.INFO,
        _PROCESSOR + "it has the lane of %(consumer)s in the group %(group)s (epoch %(epoch)d)",
    ),
    "batch_claimed": (
        logging.WARNING,
        _PROCESSOR + "nothing of a batch of %(counted_entries)s is written: %(error)s",
    ),
    "lane_awaited": (
        logging.INFO,
        _PROCESSOR + "another has the lane; standing by until it is left, or its lease expires",
    ),
    "lane_lost": (logging.WARNING, _PROCESSOR + "%(error)s"),
    "may_be_evicted": (
        logging.WARNING,
        _PROCESSOR + "the server's maxmemory-policy is %(policy)s, which may evict the stream, or "
        "what the processor keeps; set it to noeviction, or to one for keys with an expiry",
    ),
    "put_aside": (
        logging.WARNING,
        _PROCESSOR
        + "%(counted_entries)s moved to %(dead_letter)s: %(entry_id)s, because: %(reason)s",
    ),
    "app_failed": (
        logging.ERROR,
        "group %(group)s: the app of %(consumer)s has ended, because: %(error)s",
    ),
    "settings_ignored": (
        logging.WARNING,
        "%(path)s: ignored, because they have no counterpart here: %(ignored)s of %(section)s",
    ),
    "processor_failed": (
        logging.ERROR,
        _PROCESSOR + "its thread has ended by %(error)s",
    ),
    "events_dropped": (
        logging.WARNING,
        "%(counted_events)s not logged, because too many came at once",
    ),
}

#: What is counted is named in the singular or plural, as ``%(counted_entries)s``.
_NOUNS = {
    "entries": ("entry", "entries"),
    "failures": ("failure", "failures"),
    "events": ("event", "events"),
}


def log_events() -> None:
    """Log what the core has recorded since the last call."""
    global _logged_at  # noqa: PLW0603 - whichever thread it was
    for name, fields in _core.take_events():
        if name == "fields_missing":
            # The hint takes all names into account.
            fields["hint"] = hint_for(fields["missing"], fields["present"], fields["payload"])
            fields["present"] = fields["present"][:10]
        _logged_at = time.monotonic()
        log(name, fields)
    _logged_at = time.monotonic()


def log(name: str, fields: Mapping[str, object], error: BaseException | None = None) -> None:
    """Log an event, its name and its fields being attributes of the record, and a traceback."""
    level, message = EVENTS[name]
    texts = {
        f"counted_{noun}": counted(number, *_NOUNS[noun])
        for noun, number in fields.items()
        if noun in _NOUNS and isinstance(number, int)
    }
    kind = "processor" if "processor" in fields else "group"
    texts["who"] = f"{kind} {fields.get(kind)}"
    try:
        # One mapping is what the message's names are looked up in.
        extra = {"event": name, **fields}
        logger = logging.getLogger("redfloe")
        try:
            logger.log(level, message, {**fields, **texts}, extra=extra, exc_info=error)
        except KeyError as clash:
            if "overwrite" not in str(clash):  # a handler's or filter's
                raise
            # The program's own records have an attribute of such a name already.
            extra = {f"redfloe_{key}": value for key, value in extra.items()}
            logger.log(level, message, {**fields, **texts}, extra=extra, exc_info=error)
    except Exception:  # noqa: BLE001 - a handler's or filter's, and no reason to end a read
        if logging.raiseExceptions:
            traceback.print_exc()


#: How long it leaves records to those in a call of redfloe, in seconds: whose come first.
_LATE = 0.1

#: When somebody logged last, who goes on to do so.
_logged_at = 0.0

#: The process that has the thread: a forked child has none.
_live_in: int | None = None


def log_live() -> None:
    """From now on log also what comes while nobody runs in our code."""
    global _live_in  # noqa: PLW0603 - one for each process
    if _live_in == os.getpid():
        return
    _live_in = os.getpid()
    import threading

    with suppress(RuntimeError):  # no thread can be started: the records come later
        # It never ends, and may be stopped at any moment: it has no frame of the core's below it.
        threading.Thread(target=_log_live, name="redfloe-log", daemon=True).start()


def _log_live() -> None:
    import select

    completions = _core.Completions()
    poll = select.poll()
    poll.register(completions.fileno(), select.POLLIN)
    while True:
        poll.poll()
        time.sleep(_LATE)
        while (left := _logged_at + _LATE - time.monotonic()) > 0:
            time.sleep(left)
        completions.take()
        log_events()
