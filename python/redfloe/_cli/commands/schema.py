"""``redfloe schema``."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated

import typer

from redfloe._cli.options import Json, MaxColumns, Stream, Url, connect, existing
from redfloe._cli.payloads import Payload, PayloadCompression, PayloadFormat, Payloads

if TYPE_CHECKING:
    import polars as pl
    from polars.datatypes import DataTypeClass


def schema(
    stream: Stream,
    sample: Annotated[
        int, typer.Option(min=1, help="How many entries to look at, the oldest and the newest.")
    ] = 100,
    every: Annotated[bool, typer.Option("--all", help="Look at all entries.")] = False,
    payload: Payload = None,
    payload_format: PayloadFormat = "json",
    payload_compression: PayloadCompression = None,
    max_columns: MaxColumns = 5_000,
    url: Url = None,
    json: Json = False,
) -> None:
    """Infer the fields and their dtypes, as Python that is ready to paste."""
    import redfloe

    with existing(stream):
        inferred = redfloe.infer_schema(
            connect(url),
            stream,
            infer_schema_length=None if every else sample,
            **Payloads(payload, payload_format, payload_compression).options,
            max_columns=max_columns,
            must_exist=True,
        )
    if json:
        for name, dtype in inferred.items():
            print(json_module.dumps({"field": name, "dtype": as_python(dtype)}, ensure_ascii=False))
        return
    print("import polars as pl\n\nschema = {")
    for name, dtype in inferred.items():
        print(f"    {json_module.dumps(name, ensure_ascii=False)}: {as_python(dtype)},")
    print("}")


def as_python(dtype: pl.DataType | DataTypeClass) -> str:
    """Give the Python that makes a dtype."""
    import polars as pl

    match dtype:
        case pl.Struct(fields=fields):
            named = (
                f"{json_module.dumps(field.name, ensure_ascii=False)}: {as_python(field.dtype)}"
                for field in fields
            )
            return f"pl.Struct({{{', '.join(named)}}})"
        case pl.List(inner=inner):
            return f"pl.List({as_python(inner)})"
        case pl.Datetime(time_unit=unit, time_zone=None):
            return f'pl.Datetime("{unit}")'
        case pl.Datetime(time_unit=unit, time_zone=zone):
            return f'pl.Datetime("{unit}", "{zone}")'
    return f"pl.{dtype}"
