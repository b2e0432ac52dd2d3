"""Frames and messages on a terminal, in a pipe, and as JSON."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
import os
import select
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console
    from rich.table import Table

#: Dtypes whose values are numbers, which stand at the right.
_RIGHT = ("Int", "UInt", "Float", "Decimal", "Duration")


def show(frame: pl.DataFrame, *, json: bool, empty: str) -> None:
    """Print a listing: as a table, or one JSON object a row."""
    if json:
        print_json(frame)
    elif frame.is_empty():
        say(empty)
    else:
        terminal = console()
        shown = fitting(frame, terminal.width)
        terminal.print(table(shown, width=terminal.width))


def print_json(frame: pl.DataFrame) -> None:
    """Print one JSON object a row; durations are seconds, and are named so."""
    import polars as pl

    seconds = {
        name: f"{name.removesuffix('_time')}_seconds"
        for name, dtype in frame.schema.items()
        if dtype == pl.Duration
    }
    frame = frame.rename(seconds)
    for row in frame.iter_rows(named=True):
        print(as_json(row))
    sys.stdout.flush()  # a pipe's reader wants it now: more may come in an hour


def as_json(value: Any) -> str:
    """Give the JSON of a value of a frame."""
    return json.dumps(finite(value, value), default=_as_json, ensure_ascii=False, allow_nan=False)


def finite(written: Any, value: Any) -> Any:
    """Give a value as it is written in JSON, but NaN and infinities, which are no numbers there."""
    match value:
        case float() if not math.isfinite(value):
            return {math.inf: "inf", -math.inf: "-inf"}.get(value, "NaN")
        case dict():
            return {name: finite(written[name], inner) for name, inner in value.items()}
        case list():
            return [finite(*both) for both in zip(written, value, strict=True)]
    return written


def _as_json(value: object) -> object:
    match value:
        case dt.timedelta():
            return value.total_seconds()
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case Decimal():
            return str(value)
        case bytes():
            return base64.b64encode(value).decode()
    return str(value)


def console(*, stderr: bool = False) -> Console:
    """Give the terminal, or what stands for it in a pipe: there nothing is cut or coloured."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 10_000
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


#: What a listing leaves out where the terminal has no room for it, in this order.
LEFT_OUT = (
    *("commits", "epoch", "committed_at", "position"),
    *("newest", "length", "last_delivered_id", "consumers", "groups", "bytes_per_second"),
    *("history", "pending"),
)
#: What goes after that, where there is room for hardly more than names.
_NARROW = ("memory", "entries_per_second", "lag_time", "lag")
#: What is never left out, nor is the first column: else nobody knows what a row is about.
NAMES = ("stream", "processor", "group", "consumer")
#: How much of a name has a place in any case.
_SHORT_NAME = 16


def head(column: str) -> str:
    """Give what stands above a column."""
    units = {"entries_per_second": "entries/s", "bytes_per_second": "bytes/s"}
    return units.get(column, column.replace("_", " "))


def least_important(frame: pl.DataFrame) -> list[str]:
    """List the columns that may be left out, in the order in which they go."""
    first = [name for name in (*LEFT_OUT, *_NARROW) if name in frame.columns]
    kept = {*first, *NAMES, *frame.columns[:1]}
    return first + [name for name in frame.columns[::-1] if name not in kept]


def fitting(frame: pl.DataFrame, width: int) -> pl.DataFrame:
    """Leave out columns until the rest fits, so that names stay whole while anything else is."""
    for name in ("", *least_important(frame)):
        frame = frame.drop(name, strict=False)
        widths = {column: _width(frame, column) for column in frame.columns}
        if sum(widths.values()) <= width:
            break
        # A long name is folded before the last of what there is to tell of it goes.
        folded = [min(w, _SHORT_NAME + 3) if c in NAMES else w for c, w in widths.items()]
        if name in LEFT_OUT[-1:] and sum(folded) <= width:
            break
    return frame


def _width(frame: pl.DataFrame, column: str) -> int:
    """Give the columns of the terminal that a column of a table takes, with its margin."""
    from rich.cells import cell_len

    texts = (readable(column, value) for value in frame[column].to_list())
    return 3 + max(map(cell_len, [head(column), *texts]))


def is_right(dtype: pl.DataType) -> bool:
    """Tell whether values stand at the right of their column."""
    return str(dtype).startswith(_RIGHT)


def table(frame: pl.DataFrame, title: str | None = None, *, width: int = 10_000) -> Table:
    """Make a table of a listing, with its values as people read them."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name, dtype in frame.schema.items():
        right = is_right(dtype)
        made.add_column(
            head(name),
            justify="right" if right else "left",
            no_wrap=right,
            overflow="fold",
            min_width=max(1, min(20, _width(frame, name) - 3, width // frame.width - 3)),
        )
    for row in frame.iter_rows(named=True):
        made.add_row(*(Text(readable(name, value)) for name, value in row.items()))
    return made


def readable(column: str, value: Any) -> str:
    """Give a value of a listing as text."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int() if column in {"memory", "bytes"}:
            return size(value)
        case int():
            return f"{value:,}"
        case float() if column == "bytes_per_second":
            return size(value)
        case float():
            return f"{value:,.1f}"
        case dt.timedelta():
            return duration(value.total_seconds())
        case dt.datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S")
    return printable(str(value))


def short(column: str, value: Any) -> str:
    """Give a value of a listing as text of seven characters at most, where it is a number."""
    match value:
        case float() if column == "bytes_per_second":
            for unit in ("B", "kB", "MB", "GB", "TB"):
                if value < 999.5 or unit == "TB":
                    break
                value /= 1000
            return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:,.0f} {unit}"
        case bool():
            pass
        case int() | float() if abs(value) >= 9_999.5:
            for unit in ("k", "M", "G", "T"):
                value /= 1000
                if value < 999.5 or unit == "T":
                    break
            return f"{value:.1f}{unit}" if value < 99.95 else f"{value:,.0f}{unit}"
        case float() if value >= 99.95:
            return f"{value:,.0f}"
        case dt.timedelta() if value >= dt.timedelta(minutes=1):
            first, unit, *rest = duration(value.total_seconds()).replace("min", "m").split()
            return " ".join([first + unit, "".join(rest)]).rstrip()
    return readable(column, value)


def printable(text: str) -> str:
    r"""Make characters that would move the cursor visible, as ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(count: float) -> str:
    """Give bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """Give a time span as people read it, by its two largest units."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)} ms" if seconds > 0 else "0 s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    parts: list[str] = []
    rest = int(seconds)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def say(text: str) -> None:
    """Tell what was done, or that there is nothing: on standard error, beside the data.

    Names in it may be anybody's, and hold what would move the cursor.
    """
    print(printable(text), file=sys.stderr)


def tell(error: object) -> None:
    """Tell what failed, which may take several lines."""
    print("redfloe:", "\n".join(map(printable, str(error).split("\n"))), file=sys.stderr)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is lost; where nobody can answer, ``--yes`` is needed."""
    if yes:
        return
    if not sys.stdin.isatty():
        say(f"{question}: give --yes, since nobody can be asked here")
        raise typer.Exit(1)
    if not _says_yes(f"{printable(question)}? [y/N]: "):
        say("nothing was changed")
        raise typer.Exit(1)


def _says_yes(question: str) -> bool:
    """Wait for an answer: the end of the input is none.

    Not as input() does it: Polars' handler of Ctrl-C has the system go on with a read, and not with
    a select.
    """
    while True:
        print(question, end="", file=sys.stderr, flush=True)
        select.select([sys.stdin], [], [])
        answer = os.read(sys.stdin.fileno(), 1024)  # a terminal gives one line
        match answer.decode(errors="replace").strip().lower():
            case "y" | "yes":
                return True
            case "" | "n" | "no":
                return False


def print_frame(frame: pl.DataFrame) -> None:
    """Print rows as Polars does: as wide as the terminal, whole in a pipe."""
    import shutil

    import polars as pl

    terminal = sys.stdout.isatty()
    in_ascii = console().options.ascii_only
    width = shutil.get_terminal_size().columns if terminal else -1
    with pl.Config(
        tbl_formatting="ASCII_MARKDOWN" if in_ascii else "UTF8_FULL_CONDENSED",
        tbl_width_chars=width,
        tbl_rows=-1,
        tbl_cols=max(2, width // 14) if terminal else -1,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=False,
        fmt_str_lengths=40 if terminal else 10_000,
    ):
        text = str(frame.with_columns(pl.col(pl.String).map_batches(_all_printable)))
    # What is nested, and names: of lines that the table has, these have none.
    print("\n".join(map(printable, text.split("\n"))))
    sys.stdout.flush()


def _all_printable(texts: pl.Series) -> pl.Series:
    """Make what would move the cursor, or break the table's lines, visible."""
    if not texts.str.contains(r"\p{C}").any():
        return texts
    import polars as pl

    return texts.map_elements(printable, return_dtype=pl.String)
