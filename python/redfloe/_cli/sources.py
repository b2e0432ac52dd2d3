"""What an import reads: files, several, a directory, or standard input."""

from __future__ import annotations

import datetime as dt
import json
import sys
from glob import glob, has_magic
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import polars as pl

from redfloe._cli.formats import Format, format_of
from redfloe._files import NULL_FOLDER, OWN_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STDIN = "-"


def scan(path: str, kind: Format, *, typed: bool) -> pl.LazyFrame | None:
    """Read what is named; None where it is empty, without so much as columns.

    Entries hold texts, so values of CSV stay the texts that they are, unless `typed`.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such file, or an empty one, of a format that has none.
    """
    if path == STDIN:
        content = sys.stdin.buffer.read()
        if content.strip():
            return _scan(content, kind, typed=typed)
        _check_may_be_empty(kind, "standard input")
        return None
    if Path(path).is_dir():
        return _scan_directory(Path(path), kind, typed=typed)
    if "://" in path:
        return _scan(path, kind, typed=typed)
    there = sorted(glob(path, recursive=True)) if not Path(path).exists() else [path]  # noqa: PTH207 -- of any path
    if not there:
        msg = f"no file matches {path!r}" if has_magic(path) else f"there is no file {path!r}"
        raise FileNotFoundError(msg)
    filled = [one for one in there if not Path(one).is_file() or Path(one).stat().st_size]
    if filled:
        return _scan(filled, kind, typed=typed)
    _check_may_be_empty(kind, path)
    return None


def format_of_directory(path: Path) -> Format | None:
    """Tell the format of the files in a directory, where they have one."""
    kinds = {kind for kind in map(format_of, _files(path)) if kind is not None}
    return kinds.pop() if len(kinds) == 1 else None


def exported_fields(path: str, rows: pl.LazyFrame) -> list[str] | None:
    """Tell the fields where an export has called its own columns otherwise than usual."""
    exported = Path(path) / OWN_FOLDER / "state.json"
    if path == STDIN or not exported.exists():
        return None
    state = json.loads(exported.read_text())
    own = {state.get("id_column", "_id"), state.get("timestamp_column", "_ts")}
    if own == {"_id", "_ts"}:
        return None
    return [name for name in rows.collect_schema() if name not in own]


def with_times(rows: pl.LazyFrame, column: str) -> pl.LazyFrame:
    """Read the times in a column of texts: dates, datetimes, or milliseconds."""
    if rows.collect_schema().get(column) != pl.String:
        return rows
    first = rows.select(pl.col(column).drop_nulls().first()).collect().item()
    text = pl.col(column)
    if first is None or first.lstrip("-").isdecimal():
        return rows.with_columns(text.cast(pl.Int64))
    try:
        zone = dt.datetime.fromisoformat(first).tzinfo
    except ValueError:
        msg = f"the column {column!r} has {first!r}, which is no time: write 2024-01-31T12:00:00Z"
        raise ValueError(msg) from None
    zoned = None if zone is None else "UTC"
    return rows.with_columns(text.str.to_datetime(time_unit="us", time_zone=zoned))


def _check_may_be_empty(kind: Format, path: str) -> None:
    if kind in {Format.parquet, Format.arrow}:
        msg = f"{path} is empty, as no file of {kind.value} is"
        raise ValueError(msg)


def _scan(source: str | list[str] | bytes, kind: Format, *, typed: bool) -> pl.LazyFrame:
    def given() -> Any:
        return BytesIO(source) if isinstance(source, bytes) else source

    # Names of files are no patterns any more.
    patterns = isinstance(source, str)
    match kind:
        case Format.parquet:
            return pl.scan_parquet(given(), hive_partitioning=False, glob=patterns)
        case Format.csv:
            texts = pl.scan_csv(given(), infer_schema=False, glob=patterns)
            guessed = pl.scan_csv(given(), glob=patterns)
            return _typed(texts, guessed) if typed else texts
        case Format.ndjson:
            # Of all rows: a key that comes late is one too, and so is "NaN" among numbers.
            files = given()
            if isinstance(source, list) and any(map(has_magic, source)):
                files = [Path(one).read_bytes() for one in source]  # every name is a pattern to it
            return pl.scan_ndjson(files, infer_schema_length=None)
        case Format.arrow:
            return pl.scan_ipc(given(), hive_partitioning=False, glob=patterns)


def _typed(texts: pl.LazyFrame, guessed: pl.LazyFrame) -> pl.LazyFrame:
    """Read numbers and booleans as such, in columns where each text is one and stays itself."""
    dtypes = guessed.collect_schema()
    casts = {
        name: pl.col(name) == "true"
        if dtype == pl.Boolean
        else pl.col(name).cast(dtype, strict=False)
        for name, dtype in dtypes.items()
        if dtype.is_numeric() or dtype == pl.Boolean
    }
    if not casts:
        return texts
    same = texts.select(
        (
            (cast.is_null() == pl.col(name).is_null()).all()
            if dtypes[name].is_float()
            else cast.cast(pl.String).eq_missing(pl.col(name)).all()
        ).alias(name)
        for name, cast in casts.items()
    ).collect()
    return texts.with_columns(cast.alias(name) for name, cast in casts.items() if same[name].item())


def _files(folder: Path) -> Iterator[Path]:
    """Find the files of a directory, but those that are hidden, or another program's own."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "_")) and not (path.is_dir() and "=" in path.name):
            continue
        if path.is_dir():
            yield from _files(path)
        elif format_of(path) is not None:
            yield path


def _scan_directory(folder: Path, kind: Format, *, typed: bool) -> pl.LazyFrame | None:
    """Read a directory, whose folders may name values as Hive's do: ``sku=A``.

    Those of an export come in the order of their entries, with the fields that entries had.
    """
    files = [path for path in _files(folder) if format_of(path) == kind]
    filled = [path for path in files if path.stat().st_size]
    exported = folder / OWN_FOLDER / "state.json"
    if not exported.exists():
        if not filled:
            msg = f"{folder} has no file of {kind.value} with rows"
            raise FileNotFoundError(msg)
        return _together(_partition(path, folder, kind, typed=typed) for path in filled)
    state = json.loads(exported.read_text())
    unfinished = set(state.get("unfinished") or ())
    fields = set(pl.read_ipc_schema(exported.with_name("schema.arrow")))
    ids = pl.col(state.get("id_column", "_id"))
    batches: dict[tuple[int, ...], list[pl.LazyFrame]] = {}
    for path in filled:
        if str(path.relative_to(folder)) in unfinished:
            continue
        part = _partition(path, folder, kind, typed=typed)
        times = set(state["partition_by"]) - fields  # parts of the time, which no entry has
        first = tuple(map(int, path.stem.split("-")))
        batches.setdefault(first, []).append(part.drop(times, strict=False))
    if not batches:
        return None
    return _together(
        _together(parts).sort(
            ids.str.split("-").list.get(0).cast(pl.UInt64),
            ids.str.split("-").list.get(1).cast(pl.UInt64),
        )
        if len(parts) > 1
        else parts[0]
        for _, parts in sorted(batches.items(), key=lambda batch: batch[0])
    )


def _partition(path: Path, folder: Path, kind: Format, *, typed: bool) -> pl.LazyFrame:
    values = (one.name.split("=", 1) for one in path.relative_to(folder).parents if "=" in one.name)
    return _scan([str(path)], kind, typed=typed).with_columns(
        _value(value).alias(unquote(name)) for name, value in values
    )


def _value(folder: str) -> pl.Expr:
    if folder == NULL_FOLDER:
        return pl.lit(None, pl.String)
    try:
        return pl.lit(unquote(folder, errors="strict"))
    except UnicodeDecodeError:
        from urllib.parse import unquote_to_bytes

        return pl.lit(unquote_to_bytes(folder))


def _together(parts: Iterable[pl.LazyFrame]) -> pl.LazyFrame:
    return pl.concat(parts, how="diagonal_relaxed")
