"""What `make lint` says of the licences of dependencies."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "check_licences.py"


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", True),
        ("MIT OR Apache-2.0 OR LGPL-2.1-or-later", True),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-2.0-or-later", False),
        ("AGPL-3.0-only OR SSPL-1.0", False),
        ("MPL-2.0", False),
    ],
)
def test_one_of_the_choices_must_be_allowed(licence: str, allowed: bool) -> None:
    assert runpy.run_path(str(SCRIPT))["is_allowed"](licence) is allowed


def test_crates_that_only_tests_need_are_left_out() -> None:
    crates = {name.split(" ")[0] for name in runpy.run_path(str(SCRIPT))["crates"]()}
    assert {"redfloe", "arrow-array", "pyo3", "rustls"} <= crates
    assert not crates & {"proptest", "criterion"}
