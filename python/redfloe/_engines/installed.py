"""Whether an engine is there, and new enough."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version


def missing(package: str, least: str) -> ImportError:
    """Give the error of an engine that cannot be imported, which says what to install."""
    needs = f"redfloe.{package} needs {package} {least} or later"
    try:
        found = f", not {version(package)}: pip install --upgrade"
    except PackageNotFoundError:
        found = ": pip install"
    return ImportError(f"{needs}{found} 'redfloe[{package}]'", name=package)


def require(package: str, least: str) -> None:
    """Refuse an engine that can be imported and is too old."""
    try:
        is_older = _numbers(version(package)) < _numbers(least)
    except PackageNotFoundError:  # a build of their own
        return
    if is_older:
        raise missing(package, least)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)[:3]]
