"""The pages of the documentation: their code runs, and prints what is shown."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import redfloe

ROOT = Path(__file__).parents[2]
#: What the pages call the reader's server.
READERS_URL = '"redis://localhost"'
#: Pages whose code needs an engine, by its fixture: tests/engines runs them.
ENGINES = {
    ROOT / "docs" / "guide" / "spark.md": "spark",
    ROOT / "docs" / "guide" / "ray-and-daft.md": "ray_cluster",
    ROOT / "docs" / "guide" / "archive.md": "object_store",
    ROOT / "docs" / "guide" / "delta.md": "server_program",
}
#: The page whose code needs redfloe_expressions: tests/expressions runs it.
EXPRESSIONS = ROOT / "docs" / "guide" / "expressions.md"

#: A block of Python, and the block of text that follows at once, if one does: its output.
PYTHON = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\s*^```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def python(page: Path) -> list[tuple[int, str, str]]:
    """Each block of Python: the line before its code, the code, what it prints."""
    text = page.read_text()
    return [
        (text.count("\n", 0, block.start("code")), block["code"], block["output"] or "")
        for block in PYTHON.finditer(text)
    ]


def run_page(page: Path, url: str, replace: dict[str, str]) -> None:
    """Run a page's code from top to bottom, and compare what it prints with what it shows."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        for line, code, output in python(page):
            source = "\n" * line + code  # so that a traceback names the page's line
            for shown, run in {READERS_URL: repr(url), **replace}.items():
                source = source.replace(shown, run)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(source, str(page), "exec", dont_inherit=True), namespace)
            where = f"{page_id(page)}: the block in line {line} printed otherwise"
            assert printed.getvalue() == output, where
    finally:
        for value in list(namespace.values()):
            if isinstance(value, redfloe.LocalServer):
                value.stop()
