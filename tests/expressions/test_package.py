"""The package: how it is reached, what it says of itself, and that its page and examples run."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import redfloe_expressions as rfx
from support.pages import EXPRESSIONS, run_page

DECODE = """pl.select(pl.lit('{"n": 1}').redfloe.decode("json", {"n": pl.Int8})).item()"""


@pytest.mark.parametrize(
    "imports",
    [
        "import polars as pl; import redfloe",
        "import redfloe; redfloe.read_stream; import polars as pl",
        "import polars as pl; import redfloe_expressions",
        "import redfloe_expressions; import redfloe; import polars as pl; redfloe.read_stream",
        "import polars as pl; import redfloe; import redfloe_expressions",
    ],
)
def test_expressions_have_the_namespace(imports: str) -> None:
    command = [sys.executable, "-W", "error", "-c", f"{imports}; print({DECODE})"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "{'n': 1}\n"


def test_importing_redfloe_does_not_import_it() -> None:
    script = "import sys, polars, redfloe; redfloe.read_stream; print(*sys.modules)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "redfloe._expressions" in done.stdout.split()
    assert "redfloe_expressions" not in done.stdout.split()


def test_methods_take_what_functions_take() -> None:
    for name in ("decode", "encode", "entry_id"):
        function, method = getattr(rfx, name), getattr(rfx.Expressions, name)
        taken = [*inspect.signature(function).parameters.values()][1:]
        assert [*inspect.signature(method).parameters.values()][1:] == taken
    assert {*rfx.__all__} >= {"Expressions", "decode", "encode", "entry_id"}


def test_the_examples_run() -> None:
    results = doctest.testmod(rfx)
    assert (results.failed, results.attempted >= 9) == (0, True)


@pytest.mark.usefixtures("server_program")
def test_the_page_runs_and_prints_what_it_shows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(EXPRESSIONS, "", {})
