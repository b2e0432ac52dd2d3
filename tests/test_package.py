"""The package as users see it: what it costs to import, what is public, what is documented."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib.metadata import metadata, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import redfloe
from redfloe import _core

PUBLIC = [name for name in redfloe.__all__ if name != "__version__"]


def run(script: str) -> str:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_import_is_quick() -> None:
    script = (
        "import time, polars; start = time.process_time(); import redfloe; "
        "print(time.process_time() - start)"
    )
    # The first run may have to read files from the disk; the best is what the import costs.
    best = min(float(run(script)) for _ in range(7))
    assert best < 0.030, f"importing redfloe takes {1000 * best:.1f} ms beyond polars"


def test_the_import_leaves_heavy_modules_alone() -> None:
    script = (
        "import sys, polars; before = {*sys.modules}; import redfloe; "
        "print(*sorted({name.split('.')[0] for name in {*sys.modules} - before}))"
    )
    assert run(script).split() == ["redfloe"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_the_import_starts_no_threads() -> None:
    script = """if True:
        import pathlib, redfloe
        print(*(task.read_text() for task in pathlib.Path("/proc/self/task").glob("*/comm")))
    """
    names = run(script)
    assert "python" in names
    assert "redfloe" not in names


def test_all_is_what_is_public() -> None:
    public = {
        name
        for name, value in vars(redfloe).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert sorted(public | {"__version__"}) == sorted(redfloe.__all__)
    assert len({*redfloe.__all__}) == len(redfloe.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_objects_are_where_users_find_them_and_say_what_they_are(name: str) -> None:
    value: Any = getattr(redfloe, name)
    doc = inspect.getdoc(value)
    assert doc is not None
    summary = doc.splitlines()[0]
    assert summary.endswith(".")
    assert summary[0].isupper()
    assert len(summary) <= 100


@pytest.mark.parametrize(
    "name", [name for name in PUBLIC if inspect.isfunction(getattr(redfloe, name))]
)
def test_functions_document_their_parameters(name: str) -> None:
    function = getattr(redfloe, name)
    doc = inspect.getdoc(function) or ""
    documented = re.findall(r"^([a-z_, ]+)(?: :.*)?$", doc, flags=re.MULTILINE)
    names = {part.strip() for line in documented for part in line.split(",")}
    assert {*inspect.signature(function).parameters} <= names
    assert "Examples\n--------" in doc


def test_the_version_is_the_same_everywhere() -> None:
    assert redfloe.__version__ == _core.__version__ == version("redfloe")
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", redfloe.__version__)


def test_the_package_is_typed_and_licensed() -> None:
    assert (files("redfloe") / "py.typed").is_file()
    assert metadata("redfloe")["License-Expression"] == "MIT OR Apache-2.0"
