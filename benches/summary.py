"""What README and the site's first page say of the tables in docs/performance.md.

One sentence and a chart, for light and dark pages, are written from the tables alone, so that they
cannot contradict them. `make bench` writes both; ``python benches/summary.py`` writes them again,
and with ``--check`` it fails where they differ.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- summary.py writes from here -->", "<!-- to here -->"
#: The pages with the sentence, and what leads from each to the tables: PyPI shows README alone.
READERS = {
    ROOT / "README.md": "https://github.com/redfloe/redfloe/blob/main/docs/performance.md",
    ROOT / "docs" / "index.md": "performance.md",
}
CHARTS = ROOT / "docs" / "assets"

#: A group of bars: its title, the section of the page, redfloe's row and the peer's, and the peer.
GROUPS = [
    (
        "Reading; 1 = a client that drops every byte",
        "events",
        "redfloe `read_stream`",
        "redis-py[hiredis] + Polars",
        "redis-py + Polars",
    ),
    (
        "Consumer group; 1 = the same, every byte dropped",
        "groups",
        "redfloe `StreamConsumer`",
        "redis-py[hiredis] + Polars, XACK by batch",
        "redis-py + Polars",
    ),
    (
        "Writing; 1 = redis-cli --pipe",
        "write",
        "redfloe `write_stream`",
        "redis-py[hiredis], pipelined",
        "redis-py",
    ),
]


class Colours(NamedTuple):
    """What a chart is drawn with."""

    text: str
    redfloe: str
    peer: str
    line: str


PALETTES = {
    "light": Colours("#24292f", "#00897b", "#b0bec5", "#78909c"),
    "dark": Colours("#e6edf3", "#4db6ac", "#546e7a", "#90a4ae"),
}


def tables(page: str, section: str) -> str:
    """Give a section of the page."""
    return page.partition(f"<!-- section {section} -->")[2].partition("<!--")[0]


def cells(page: str, section: str, row: str) -> list[str]:
    """Give a row of a section's table, without its name."""
    line_of_row = rf"^\| {re.escape(row)} \|(.*)\|$"
    (line,) = re.findall(line_of_row, tables(page, section), re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


def ratio(page: str, section: str, row: str) -> float:
    """Give a row's ratio to the floor, which is in the second column."""
    return float(cells(page, section, row)[1])


def sentence(page: str, link: str) -> str:
    """Say how long a read takes, beside the floor and the peer."""
    _, section, ours, peers, _ = GROUPS[0]
    seconds = cells(page, section, ours)[0].split(" s")[0]
    measured = r"`make bench` on (\S+),"  # below the section's tables, if it was run alone
    day = re.findall(measured, tables(page, section)) or re.findall(measured, page)
    our_ratio, peers_ratio = (ratio(page, section, row) for row in (ours, peers))
    ours_wide, peers_wide = (ratio(page, "flights", row) for row in (ours, peers))
    return (
        f"Reading 1,000,000 entries of 5 fields into a DataFrame takes {float(seconds):.2f} s:"
        f" **{our_ratio:.2f} times** as long as a client that requests the same pages and drops"
        f" every byte. redis-py with Polars takes **{peers_ratio:.1f} times** as long;"
        f" for 27,004 entries of 19 fields it is {ours_wide:.1f} and {peers_wide:.1f} times"
        f" ([measured]({link}) side by side on {day[0]}, on two cores)."
    )


def chart(page: str, colours: Colours) -> str:
    """Draw the bars: the time of each contender, as a multiple of the floor's."""
    longest = max(ratio(page, section, row) for _, section, *rows, _ in GROUPS for row in rows)
    left, unit, bar = 150, 250 / longest, 18
    title = "Time for 1,000,000 entries; shorter is better"
    drawn = [f'<text x="0" y="16" font-weight="600">{title}</text>']
    y = 34
    for group, section, ours, peers, peer in GROUPS:
        drawn.append(f'<text x="0" y="{y + 14}">{group}</text>')
        y += 22
        drawn.append(
            f'<path d="M{left + unit} {y - 3}v{2 * bar + 9}" stroke="{colours.line}"'
            ' stroke-dasharray="3 3" fill="none"/>'
        )
        for name, row, colour in (
            ("redfloe", ours, colours.redfloe),
            (peer, peers, colours.peer),
        ):
            times = ratio(page, section, row)
            width = times * unit
            drawn += [
                f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{name}</text>',
                f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{bar}" fill="{colour}"/>',
                f'<text x="{left + max(width, unit) + 6:.1f}" y="{y + 14}">{times:.2f}</text>',
            ]
            y += bar + 3
        y += 10
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 470 {y}" width="470" height="{y}"'
        f' font-family="system-ui, sans-serif" font-size="15" fill="{colours.text}">'
    )
    return "\n".join([svg, *drawn, "</svg>", ""])


def files() -> dict[Path, str]:
    """Give all files that tell of the tables, as they have to be."""
    page = PAGE.read_text()
    written = {
        CHARTS / f"speed-{name}.svg": chart(page, colours) for name, colours in PALETTES.items()
    }
    for reader, link in READERS.items():
        head, rest = reader.read_text().split(BEGIN)
        _, tail = rest.split(END)
        written[reader] = f"{head}{BEGIN}\n\n{sentence(page, link)}\n\n{END}{tail}"
    return written


def write_summary() -> None:
    """Write what differs."""
    for path, text in files().items():
        path.write_text(text)


def main() -> None:
    """Write, or check."""
    if sys.argv[1:] != ["--check"]:
        write_summary()
        return
    stale = [
        str(path.relative_to(ROOT))
        for path, text in files().items()
        if not path.exists() or path.read_text() != text
    ]
    if stale:
        sys.exit(f"not as docs/performance.md says: {', '.join(stale)}; run benches/summary.py")


if __name__ == "__main__":
    main()
