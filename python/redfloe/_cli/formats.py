"""Formats of files, and how their names tell them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePath


class Format(StrEnum):
    """What files an export writes, and an import reads."""

    parquet = "parquet"
    csv = "csv"
    ndjson = "ndjson"
    arrow = "arrow"


_SUFFIXES = {
    ".parquet": Format.parquet,
    ".csv": Format.csv,
    ".ndjson": Format.ndjson,
    ".jsonl": Format.ndjson,
    ".arrow": Format.arrow,
    ".ipc": Format.arrow,
    ".feather": Format.arrow,
}


def format_of(path: str | PurePath) -> Format | None:
    """Tell the format by the name's suffix, where it has one that is known."""
    return _SUFFIXES.get(PurePath(path).suffix.lower())
