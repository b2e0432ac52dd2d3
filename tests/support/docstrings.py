"""The examples in the package's sources: a stub's docstrings are nowhere at run time."""

from __future__ import annotations

import ast
import doctest
from collections.abc import Iterator

import redis

from support.pages import ROOT

#: Modules whose examples need an engine: tests/engines runs them.
ENGINES = {
    ROOT / "python" / "redfloe" / f"{name}.py"
    for name in ("daft", "ray", "spark", "_processing/delta_sink")
}


def docstrings(*, of_engines: bool = False) -> Iterator[doctest.DocTest]:
    """Find the examples of the package, or those of its modules for engines."""
    parser = doctest.DocTestParser()
    sources = [path for path in ROOT.glob("python/redfloe/**/*.py*") if path.suffix != ".pyc"]
    for source in sorted(sources):
        if (source in ENGINES) != of_engines:
            continue
        for node in ast.walk(ast.parse(source.read_text())):
            if not isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ):
                continue
            name = getattr(node, "name", "module")
            text = ast.get_docstring(node) or ""
            test = parser.get_doctest(text, {}, f"{source.name}:{name}", str(source), 0)
            if test.examples:
                yield test


def add_events(client: redis.Redis) -> None:
    """Add the stream `events`, which they read."""
    client.xadd(
        "events", {"user_id": "user_1", "action": "click", "value": 10}, id="1704067200000-0"
    )
    client.xadd("events", {"user_id": "user_2", "action": "view"}, id="1704067200001-0")


def run_examples(test: doctest.DocTest, url: str) -> None:
    """Run them, and compare what they print with what they show."""
    test.globs = {"url": url}
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert results.attempted > 0
    assert results.failed == 0, "".join(report)
