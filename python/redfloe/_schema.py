"""Schemas that say which fields are read, and as which dtypes."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property, lru_cache
from typing import TypeAlias

import polars as pl
from polars.datatypes import DataType, DataTypeClass

from redfloe._errors import SchemaError

SchemaLike: TypeAlias = (
    Mapping[str, DataType | DataTypeClass] | Sequence[tuple[str, DataType | DataTypeClass]]
)

#: What a text can stand for.
DTYPES = frozenset(
    (
        *(pl.String, pl.Binary, pl.Categorical, pl.Enum, pl.Boolean),
        *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128),
        *(pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
        *(pl.Float32, pl.Float64, pl.Decimal),
        *(pl.Date, pl.Time, pl.Datetime, pl.Duration),
        *(pl.List, pl.Array, pl.Struct),
    )
)
#: Those of them that say nothing without their parameters.
_INCOMPLETE = frozenset((pl.Enum, pl.List, pl.Array, pl.Struct))


class _CheckedSchema(pl.Schema):
    """A schema that exports itself to Arrow once: the core looks at it, and takes nothing away."""

    @cached_property
    def _exported(self) -> object:
        return super().__arrow_c_schema__()

    def __arrow_c_schema__(self) -> object:
        return self._exported


def as_schema(schema: SchemaLike) -> pl.Schema:
    """Give every dtype as an instance, in an object that exports itself to Arrow."""
    return _remembered(tuple(_pairs(schema)))


def _checked(pairs: tuple[tuple[str, DataType | DataTypeClass | type], ...]) -> _CheckedSchema:
    for name, dtype in pairs:
        check_name(name, "the schema's field names")
        _check_dtype(name, dtype)
    name, times = Counter(name for name, _ in pairs).most_common(1)[0] if pairs else ("", 0)
    if times > 1:
        msg = f"the schema names the field {name!r} twice"
        raise SchemaError(msg)
    try:
        # A frame, unlike a Schema, also takes dtypes without their parameters, such as pl.Datetime.
        complete = _CheckedSchema(pl.DataFrame(schema=dict(pairs)).schema)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        msg = f"the schema cannot be read: {error}"
        raise SchemaError(msg) from error
    for name, dtype in complete.items():
        _check_dtype(name, dtype)  # what Polars made of Python's types
    return complete


#: To check a schema takes longer than to read an entry.
_remembered = lru_cache(maxsize=256)(_checked)


def _pairs(schema: object) -> list[tuple[str, DataType | DataTypeClass | type]]:
    pairs = []
    match schema:
        case Mapping():
            items: Iterable[object] = schema.items()
        case Sequence():
            items = schema
        case _:
            items = [None]
    for item in items:
        match item:
            case (str() as name, (DataType() | DataTypeClass() | type()) as dtype):
                pairs.append((name, dtype))
            case (str() as name, other):
                msg = f"the schema's field {name!r} must have a Polars dtype, not {other!r}"
                raise TypeError(msg)
            case _:
                msg = "schema must be a mapping of field names to Polars dtypes, or such pairs"
                raise TypeError(msg)
    return pairs


def _check_dtype(field: str, dtype: object) -> None:
    """Refuse what no text stands for here already: Polars panics on some of it."""
    if not isinstance(dtype, DataType | DataTypeClass):
        return
    base = dtype.base_type()
    if base not in DTYPES:
        msg = (
            f"the field {field!r} has the dtype {dtype}, which no text stands for; "
            "read it as pl.String and convert it"
        )
        raise SchemaError(msg)
    if isinstance(dtype, DataTypeClass) and base in _INCOMPLETE:
        msg = f"the field {field!r} has the dtype {dtype}, which needs its parameters"
        raise SchemaError(msg)
    match dtype:
        case pl.Array() if not dtype.size:
            msg = (
                f"the field {field!r} has the dtype {dtype}, an Array of width 0, in which Polars "
                "cannot read nulls; read it as a pl.List"
            )
            raise SchemaError(msg)
        case pl.List() | pl.Array():
            _check_dtype(field, dtype.inner)
        case pl.Struct():
            for name, times in Counter(inner.name for inner in dtype.fields).items():
                if times > 1:
                    msg = f"the Struct of the field {field!r} names the field {name!r} twice"
                    raise SchemaError(msg)
            for inner in dtype.fields:
                check_name(inner.name, f"the names inside the field {field!r}")
                _check_dtype(f"{field}.{inner.name}", inner.dtype)


def timestamp_schema(dtype: DataType | DataTypeClass) -> pl.Schema:
    """Give the schema of one field that passes the dtype on."""
    if dtype in (pl.Datetime, datetime) and not isinstance(dtype, DataType):
        dtype = pl.Datetime("ms", "UTC")  # which is what an ID's milliseconds are
    schema = as_schema({"timestamp_dtype": dtype})
    if schema["timestamp_dtype"] not in (pl.Int64, pl.Datetime):
        msg = f"timestamp_dtype must be pl.Int64 or a pl.Datetime, not {dtype}"
        raise SchemaError(msg)
    return schema


def check_name(value: object, what: str) -> str:
    name = as_text(value, what)
    if "\0" in name:
        msg = f"{what} must not contain NUL, which ends a column's name in Arrow"
        raise SchemaError(msg)
    return name


def as_text(value: object, what: str) -> str:
    """Refuse what is no text."""
    if not isinstance(value, str):
        msg = f"{what} must be str, not {type(value).__name__}"
        raise TypeError(msg)
    return value
