"""Modules for engines that are missing, or too old; `tests/engines` has those that are there."""

from __future__ import annotations

import importlib.util

import pytest

from redfloe._engines import installed


@pytest.mark.parametrize("engine", ["ray", "daft"])
def test_an_engine_that_is_missing(engine: str) -> None:
    if importlib.util.find_spec(engine) is not None:
        pytest.skip(f"{engine} is here")
    with pytest.raises(ImportError, match=rf"pip install 'redfloe\[{engine}\]'") as raised:
        importlib.import_module(f"redfloe.{engine}")
    assert raised.value.name == engine


def test_an_engine_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "version", lambda _: "2.9.1")
    installed.require("ray", "2.9")
    for least in ("2.10", "2.9.2", "3"):
        with pytest.raises(ImportError, match=r"or later, not 2\.9\.1: pip install --upgrade"):
            installed.require("ray", least)


def test_a_version_that_nobody_knows() -> None:
    installed.require("no-such-package", "1")
