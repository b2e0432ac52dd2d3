"""The page that shows what was measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import redis
from summary import PAGE, ROOT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from support.server import Server


def table(title: str, head: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    """Lay a table out in Markdown, under its title."""
    lines = [tuple(head), *rows]
    drawn = [f"| {' | '.join(line)} |" for line in lines]
    drawn.insert(1, "|" + "---|" * len(lines[0]))
    return "\n".join([f"### {title}", "", *drawn])


def describe_run(server: Server, rounds: int, target: str = "bench") -> str:
    """Say where and how the tables were measured."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout.strip()
    cpu = next(
        line.split(": ")[1]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    version = ".".join(map(str, server.version))
    return (
        f"`make {target}` on {datetime.now(UTC):%Y-%m-%d}, commit {commit}: "
        f"{rounds} rounds in turns; "
        f"Redis {version} on loopback; Python {platform.python_version()}, "
        f"Polars {pl.__version__}, redis-py {redis.__version__}; {os.cpu_count()} cores, {cpu}."
    )


def _mark(section: str) -> str:
    """Give what the page has before a section's tables."""
    return f"<!-- section {section} -->"


_BEGIN, _END = "<!-- compare.py writes from here -->", "<!-- to here -->"


def sections_on_page() -> dict[str, str]:
    """Give the tables that the page has, by section."""
    return _sections_of(PAGE.read_text().split(_BEGIN)[1].split(_END)[0])


def _sections_of(text: str) -> dict[str, str]:
    _, *parts = re.split(r"<!-- section (\w+) -->", text)
    return {name: tables.strip() for name, tables in zip(parts[::2], parts[1::2], strict=True)}


def write_page(run: str, sections: dict[str, str], order: Collection[str]) -> None:
    """Put tables between their marks on the page: all of them, or those of some sections.

    Above all is how they were measured, and under tables with a run of their own how these were.
    Sections that are not in the order, of another program, stay at the end.
    """
    head, rest = PAGE.read_text().split(_BEGIN)
    there, tail = rest.split(_END)
    known = _sections_of(there)
    others = [name for name in known if name not in order]
    if len(sections) < len(order):
        above = there.split("<!-- section", 1)[0].strip()
        own = {name: f"{tables}\n\n{run}" for name, tables in sections.items()}
        sections = known | own
    else:
        above = run
        sections = sections | {name: known[name] for name in others}
    parts = [f"{_mark(name)}\n\n{sections[name]}" for name in [*order, *others] if name in sections]
    PAGE.write_text(f"{head}{_BEGIN}\n\n" + "\n\n".join([above, *parts]) + f"\n\n{_END}{tail}")
