"""The package as users see it: what it costs to import, what is public, what is documented."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import metadata, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import redfloe
import redfloe.typing
from redfloe import _core
from redfloe._options import DEFAULTS
from redfloe.typing import ExceptionPolicy, Fields, SchemaLike
from support.timing import SLACK

PUBLIC = [name for name in redfloe.__all__ if name != "__version__"]


def run(script: str) -> str:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_import_is_quick() -> None:
    script = (
        "import time, polars; start = time.process_time(); from redfloe import *; "
        "print(time.process_time() - start)"
    )
    # The first run may have to read files from the disk; the best is what the import costs.
    best = min(float(run(script)) for _ in range(7))
    assert best < 0.030 * SLACK, f"importing redfloe takes {1000 * best:.1f} ms beyond polars"


def test_the_import_leaves_heavy_modules_alone() -> None:
    script = (
        "import sys, polars; before = {*sys.modules}; from redfloe import *; "
        "print(*sorted({name.split('.')[0] for name in {*sys.modules} - before}))"
    )
    assert run(script).split() == ["redfloe"]


def test_the_import_needs_no_polars() -> None:
    script = (
        "import sys, redfloe; print('polars' in sys.modules); from redfloe import read_stream; "
        "print('polars' in sys.modules)"
    )
    assert run(script).split() == ["False", "True"]
    for statement in ("redfloe.nope", "redfloe._nope", "from redfloe import nope"):
        with pytest.raises((AttributeError, ImportError), match=r"redfloe.*nope|nope.*redfloe"):
            exec(f"import redfloe; {statement}")


def test_expressions_cost_nothing_and_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import time, polars as pl; start = time.process_time(); import redfloe; "
        "print(time.process_time() - start); pl.col('a').redfloe"
    )
    best = min(float(run(script)) for _ in range(3))
    assert best < 0.005 * SLACK, f"importing redfloe takes {1000 * best:.1f} ms beyond polars"
    monkeypatch.setitem(sys.modules, "redfloe_expressions", None)
    missing: Any = pl.col("data")
    calls: dict[str, Any] = {"decode": ("json", {}), "encode": ("json",), "entry_id": ()}
    for name, arguments in calls.items():
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'redfloe\[expressions\]'"):
            getattr(missing.redfloe, name)(*arguments)


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
        for name in dir(redfloe)
        if not name.startswith("_") and not inspect.ismodule(getattr(redfloe, name))
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


#: Who takes which options, beside those that are its own.
TAKERS = [
    *((name, redfloe.ReadOptions) for name in ("read_stream", "scan_stream", "stream_reader")),
    *((name, redfloe.ReadOptions) for name in ("read_streams", "scan_streams")),
    *((name, redfloe.DecodeOptions) for name in ("iter_stream", "stream_batches")),
    ("StreamConsumer", redfloe.ColumnOptions),
    ("StreamProcessor", redfloe.ColumnOptions),
    *((name, redfloe.ColumnOptions) for name in ("read_dead_letters", "replay_dead_letters")),
]


@pytest.mark.parametrize(("name", "options"), TAKERS)
def test_shared_options_are_in_the_signature_and_the_docstring(name: str, options: Any) -> None:
    taker = getattr(redfloe, name)
    parameters = inspect.signature(taker).parameters
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    defaults: Mapping[str, object] = DEFAULTS
    doc = inspect.getdoc(taker) or ""
    assert "**options" not in doc
    # Among the parameters, and each with its text.
    documented = doc.partition("Parameters\n")[2].partition("\n\n")[0]
    for option in options.__annotations__:
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[option].default == defaults[option]
        assert re.search(rf"^[\w, ]*\b{option}\b.* : .*\n    \S", documented, re.MULTILINE), option


def test_each_option_is_documented_once() -> None:
    takers = (redfloe.ColumnOptions, redfloe.DecodeOptions, redfloe.ReadOptions)
    texts = [options.__doc__ or "" for options in takers]
    names = re.findall(r"^    ([a-z_, ]+) : ", "".join(texts), re.MULTILINE)
    documented = [name.strip() for line in names for name in line.split(",")]
    assert sorted(documented) == sorted(redfloe.ReadOptions.__annotations__) == sorted(DEFAULTS)


def test_no_call_can_change_the_defaults_of_the_next() -> None:
    with pytest.raises(TypeError):
        DEFAULTS["on_error"] = "null"


@pytest.mark.parametrize(("name", "options"), TAKERS)
@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("includ_id", "did you mean 'include_id'?"),
        ("star_id", "did you mean 'start_id'?"),
        ("xyzzy", "see help(redfloe.{name})"),
    ],
)
def test_an_unknown_keyword_is_refused_with_the_nearest_name(
    name: str, options: Any, wrong: str, hint: str
) -> None:
    """Before there is a connection, which this address would refuse."""
    needed = {"name": "n"} if name == "StreamProcessor" else {}
    with pytest.raises(TypeError) as raised:
        getattr(redfloe, name)("redis://127.0.0.1:1", "s", **{wrong: 1}, **needed)
    hint = hint.format(name=name)
    assert str(raised.value) == f"{name}() got an unexpected keyword argument {wrong!r}; {hint}"


def test_docstrings_may_be_left_out() -> None:
    script = "import redfloe; print(redfloe.read_stream.__doc__)"
    command = [sys.executable, "-OO", "-c", script]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "None"


def test_the_version_is_the_same_everywhere() -> None:
    assert redfloe.__version__ == _core.__version__ == version("redfloe")
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", redfloe.__version__)


def test_the_package_is_typed_and_licensed() -> None:
    assert (files("redfloe") / "py.typed").is_file()
    assert metadata("redfloe")["License-Expression"] == "MIT OR Apache-2.0"


def test_variables_can_be_annotated() -> None:
    schema: SchemaLike = {"total": pl.Decimal(10, 2), "paid": pl.Boolean, "items": [str]}
    policy: ExceptionPolicy = {ValueError: "fail", Exception: "retry"}
    fields: Fields = {"page": "x", "n": 1, "none": None}
    assert set(redfloe.typing.__all__) >= {"SchemaLike", "ExceptionPolicy", "Fields"}
    assert (len(schema), len(policy), len(fields)) == (3, 2, 3)


def test_signatures_name_what_they_take() -> None:
    for name in ("read_stream", "scan_stream", "iter_stream", "infer_schema", "StreamConsumer"):
        signature = inspect.signature(getattr(redfloe, name))
        assert "collections.abc" not in str(signature)
        assert "DataTypeClass | type" not in str(signature)
