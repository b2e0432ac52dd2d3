"""How a listing that changes fits its screen, whole and without jumping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redfloe._cli.output import head, is_right, least_important, printable, readable, short

if TYPE_CHECKING:
    import polars as pl
    from rich.text import Text

    from redfloe._cli.live import View

#: Columns that are cut in their middle, before columns are left out, and to what width at least.
_NAMES = ("stream", "group")
_NAME = 16
#: How much of the history is shown where there is not much room.
_HISTORY = 8


class Layout:
    """Columns that stay as wide as what they ever held, until the terminal has another width."""

    def __init__(self) -> None:
        self._terminal = 0
        self._widest: dict[tuple[str, bool], int] = {}

    def lines(self, view: View, width: int, height: int | None, trouble: str | None) -> list[Text]:
        """Give the lines of a view; at most `height` of them."""
        from rich.text import Text

        if width != self._terminal:
            self._terminal, self._widest = width, {}
        title = Text(printable(view.title), style="bold")
        if trouble is not None:
            title = Text(printable(f"not now: {trouble}"), style="bold red")
        lines = [title, Text()]
        if view.frame.is_empty():
            lines.append(Text(printable(view.empty)))
        else:
            lines += self._rows(view.frame, width, None if height is None else height - len(lines))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
            line.truncate(width, overflow="ellipsis")
        return lines

    def _rows(self, frame: pl.DataFrame, width: int, height: int | None) -> list[Text]:
        from rich.text import Text

        room = frame.height if height is None else max(1, height - 2)
        more = frame.height - room
        if more > 0:
            room = max(1, room - 1)
            more = frame.height - room
        shown, brief, gap, widths = self._fit(frame.head(room), width)
        heads = [_aligned(head(c), widths[c], shown[c]) for c in widths]
        between = " " * gap
        lines = [
            Text(between.join(heads).rstrip(), style="bold"),
            Text("─" * (sum(widths.values()) + gap * (len(widths) - 1)), style="dim"),
        ]
        for row in shown.iter_rows(named=True):
            cells = [_aligned(_cell(c, row[c], brief), widths[c], shown[c]) for c in widths]
            lines.append(Text(between.join(cells).rstrip()))
        if more > 0:
            lines.append(Text(f"{more:,} more", style="dim"))
        return lines

    def _fit(
        self, frame: pl.DataFrame, width: int
    ) -> tuple[pl.DataFrame, bool, int, dict[str, int]]:
        """Choose columns, their widths, the gap between them, and whether values are brief."""
        unimportant = least_important(frame)
        for dropped in range(len(unimportant) + 1):
            shown = frame.drop(unimportant[:dropped])
            for brief, gap in ((False, 3), (True, 2), (True, 1)):
                widths = {column: self._width(shown, column, brief) for column in shown.columns}
                over = sum(widths.values()) + gap * (len(widths) - 1) - width
                if over <= 0:
                    return shown, brief, gap, widths
            # The length says less than the end of a name.
            if "length" not in shown.columns and _shorten(widths, over, _NAME):
                break
        else:
            _shorten(widths, over, 1)
        return shown, brief, gap, widths

    def _width(self, frame: pl.DataFrame, column: str, brief: bool) -> int:
        from rich.cells import cell_len

        values = (_cell(column, value, brief) for value in frame[column].to_list())
        widest = max(map(cell_len, [head(column), *values]))
        widest = max(widest, self._widest.get((column, brief), 0))
        self._widest[column, brief] = widest
        return widest


def _shorten(widths: dict[str, int], over: int, least: int) -> bool:
    """Take it from the names, the longest first; tell whether that is enough."""
    names = [name for name in _NAMES if name in widths]
    if sum(max(0, widths[name] - least) for name in names) < over:
        return False
    for _ in range(over):
        longest = max(names, key=lambda name: widths[name])
        widths[longest] -= 1
    return True


def _cell(column: str, value: Any, brief: bool) -> str:
    if column in _NAMES:
        return printable(str(value))
    if column == "history":
        return str(value)[-_HISTORY:] if brief else str(value)
    return short(column, value) if brief else readable(column, value)


def _aligned(text: str, width: int, column: pl.Series) -> str:
    """Fill it up with spaces, or cut it in its middle: the end of a name tells as much."""
    from rich.cells import cell_len, set_cell_size

    length = cell_len(text)
    if length > width:
        if length != len(text):  # characters of two columns
            return set_cell_size(text, width - 1) + "…"
        head = width // 2
        return f"{text[:head]}…{text[len(text) - (width - head - 1) :]}"
    filling = " " * (width - length)
    return filling + text if is_right(column.dtype) else text + filling
