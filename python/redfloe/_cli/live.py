"""Listings that are shown again and again, until Ctrl-C."""

from __future__ import annotations

import datetime as dt
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING

from redfloe._cli.layout import Layout
from redfloe._cli.output import console, print_json, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import polars as pl
    from rich.console import Console, RenderableType


@dataclass
class View:
    """A listing as it is at one time."""

    frame: pl.DataFrame
    title: str
    #: What is said where the listing has no rows.
    empty: str


def watch(
    look: Callable[[], View],
    *,
    interval: float,
    count: int | None = None,
    json: bool = False,
    without: str | None = None,
) -> None:
    """Show what `look` finds, `count` times or until Ctrl-C; as JSON without one of the columns.

    On a terminal the listing has a screen of its own, and the last one stays when it ends. In a
    pipe each is printed below the one before. An outage after the first look is shown, and does not
    end it; on a terminal also that the server has not answered yet.
    """
    looks = _looks(lambda: iter([look()]), interval, count)
    if json:
        _as_json(looks, without)
    else:
        screen = console()
        layout = Layout()
        if screen.is_terminal and not screen.is_dumb_terminal:
            _on_screen(_looks(lambda: _beside(look), interval, count), screen, layout)
        else:
            for wait, view, trouble in looks:
                screen.print(*layout.lines(view, screen.width, None, trouble), sep="\n")
                sys.stdout.flush()
                wait(lambda: None)


def clock() -> str:
    """Give the time of day, for a title."""
    return time.strftime("%H:%M:%S")


def _at_once(meanwhile: Callable[[], None]) -> None:
    """Wait for nothing."""


#: Waits for the next look, and calls back now and then; the view; why it is not of now.
_Look = tuple["Callable[[Callable[[], None]], None]", View, str | None]


#: Seconds after which a terminal says that there is no answer yet.
_SILENT = 2.0


def _beside(look: Callable[[], View]) -> Iterator[View | str]:
    """Look beside the main thread; gives what is to be said meanwhile, and what was found."""
    done: list[View] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(look())
        except BaseException as error:  # noqa: BLE001 -- it is raised by the main thread
            failed.append(error)

    thread = Thread(target=run, daemon=True)
    started = time.monotonic()
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        if thread.is_alive() and (seconds := time.monotonic() - started) >= _SILENT:
            yield f"no answer for {seconds:.0f} s"
    if failed:
        raise failed.pop()
    yield done.pop()


def _looks(
    look: Callable[[], Iterator[View | str]], interval: float, count: int | None
) -> Iterator[_Look]:
    from redfloe import RedisConnectionError, RedisTimeoutError

    seen: View | None = None
    number = 0
    while True:
        started, trouble = time.monotonic(), None
        try:
            for found in look():
                if isinstance(found, View):
                    seen = found
                    number += 1
                elif seen is not None:
                    yield _at_once, seen, found
        except (RedisConnectionError, RedisTimeoutError) as error:
            if seen is None:
                raise
            trouble = str(error)
        assert seen is not None  # the first look gives one, or raises
        is_last = count is not None and number >= count and trouble is None

        def wait(
            meanwhile: Callable[[], None], until: float = started + interval, last: bool = is_last
        ) -> None:
            while not last and (left := until - time.monotonic()) > 0:
                time.sleep(min(left, 0.1))
                meanwhile()

        yield wait, seen, trouble
        if is_last:
            return


def _as_json(looks: Iterator[_Look], without: str | None) -> None:
    import polars as pl

    for wait, view, trouble in looks:
        if trouble is not None:
            say(f"redfloe: {trouble}")
        else:
            now = pl.lit(dt.datetime.now(dt.UTC)).alias("time")
            shown = view.frame if without is None else view.frame.drop(without)
            print_json(shown.select(now, pl.all()))
        wait(lambda: None)


def _on_screen(looks: Iterator[_Look], screen: Console, layout: Layout) -> None:
    from rich.console import Group
    from rich.live import Live

    last: RenderableType | None = None
    with ExitStack() as stack:
        stack.enter_context(_last_stays(screen, lambda: last))
        live = stack.enter_context(Live(console=screen, auto_refresh=False, screen=True))
        for wait, view, trouble in looks:
            size = None

            def draw(view: View = view, trouble: str | None = trouble) -> None:
                """Show it where it is not shown, or the terminal has another size by now."""
                nonlocal last, size
                if size != screen.size:
                    size = screen.size
                    last = Group(*layout.lines(view, size.width, size.height, trouble))
                    live.update(last, refresh=True)

            draw()
            wait(draw)


@contextmanager
def _last_stays(screen: Console, last: Callable[[], RenderableType | None]) -> Iterator[None]:
    """Print what was shown last on the usual screen, however it ended."""
    try:
        yield
    finally:
        if (shown := last()) is not None:
            screen.print(shown)
