"""Schemas that say which fields are read, and as which dtypes."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from enum import Enum
from functools import cached_property, lru_cache
from types import GenericAlias
from typing import TypeAlias, get_args, get_origin

import polars as pl
from polars.datatypes import DataType, DataTypeClass

from redfloe._errors import SchemaError

Dtype: TypeAlias = DataType | DataTypeClass
#: A dtype, a type of Python's, a dict of names to them for a Struct, or a list of one for a List.
DtypeLike: TypeAlias = Dtype | type | Mapping[str, "DtypeLike"] | Sequence["DtypeLike"]
SchemaLike: TypeAlias = Mapping[str, DtypeLike] | Sequence[tuple[str, DtypeLike]]

#: Dtypes that have a text form.
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


#: The types of Python's that mean one dtype.
_OF_PYTHON: dict[type, Dtype] = {
    bool: pl.Boolean,
    int: pl.Int64,
    float: pl.Float64,
    str: pl.String,
    bytes: pl.Binary,
    date: pl.Date,
    datetime: pl.Datetime("us"),
    time: pl.Time,
    timedelta: pl.Duration("us"),
}


class _CheckedSchema(pl.Schema):
    """A schema that exports itself to Arrow once: the core looks at it, and takes nothing away."""

    @cached_property
    def _exported(self) -> object:
        return super().__arrow_c_schema__()

    def __arrow_c_schema__(self) -> object:
        return self._exported

    def __reduce__(self) -> tuple[type, tuple[list[tuple[str, DataType]]]]:
        # Not with what it exported, which is of this process.
        return type(self), ([*self.items()],)

    # Nobody changes one, so that it may be looked up.
    __hash__ = object.__hash__  # type: ignore[assignment]  # a dict has none


def as_schema(schema: SchemaLike, parameter: str = "schema") -> pl.Schema:
    """Give every dtype as an instance, in an object that exports itself to Arrow."""
    if isinstance(schema, _CheckedSchema):
        return schema
    if not isinstance(schema, dict):
        return _remembered(tuple(_pairs(schema, parameter)), parameter)
    # By identity: Polars calls dtypes equal that are not the same, and takes its time for it.
    key = (*schema, *map(id, schema.values()))
    if (seen := _SEEN.get(key)) is not None:
        return seen[0]
    checked = _remembered(tuple(_pairs(schema, parameter)), parameter)
    dtypes = [*schema.values()]
    if all(map(_is_constant, dtypes)):
        if len(_SEEN) >= _MOST_SEEN:
            _SEEN.clear()
        _SEEN[key] = checked, dtypes
    return checked


#: Schemas by their names and the `id` of their dtypes, which are kept so that it stays theirs.
_SEEN: dict[tuple[object, ...], tuple[pl.Schema, list[object]]] = {}
_MOST_SEEN = 64


def _is_constant(dtype: object) -> bool:
    """Say whether it means the same for ever, as a dict and a list do not."""
    return isinstance(dtype, DataType | DataTypeClass)


def _checked(pairs: tuple[tuple[str, Dtype], ...], parameter: str) -> _CheckedSchema:
    for name, dtype in pairs:
        check_name(name, f"the {parameter}'s field names")
        _check_dtype(name, dtype)
    name, times = Counter(name for name, _ in pairs).most_common(1)[0] if pairs else ("", 0)
    if times > 1:
        msg = f"the {parameter} names the field {name!r} twice"
        raise SchemaError(msg)
    try:
        # A frame, unlike a Schema, also takes dtypes without their parameters, such as pl.Datetime.
        complete = _CheckedSchema(pl.DataFrame(schema=dict(pairs)).schema)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        msg = f"the {parameter} cannot be read: {error}"
        raise SchemaError(msg) from error
    for name, dtype in complete.items():
        _check_dtype(name, dtype)
    return complete


#: To check a schema takes longer than to read an entry.
_remembered = lru_cache(maxsize=256)(_checked)


def _pairs(schema: object, parameter: str) -> list[tuple[str, Dtype]]:
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
            case (str() as name, dtype):
                pairs.append((name, _as_dtype(dtype, name, parameter)))
            case _:
                msg = f"{parameter} must be a mapping of field names to dtypes, or such pairs"
                raise TypeError(msg)
    return pairs


def _as_dtype(dtype: object, field: str, parameter: str) -> Dtype:
    """Give the dtype that dicts and lists of dtypes mean."""
    if isinstance(dtype, GenericAlias) and get_origin(dtype) is list:
        dtype = list(get_args(dtype))
    match dtype:
        case DataType() | DataTypeClass():
            return dtype
        case type():
            return _of_python(dtype, field, parameter)
        case Mapping():
            fields = []
            for name, inner in dtype.items():
                check_name(name, f"the names inside the field {field!r}")
                fields.append(pl.Field(name, _as_dtype(inner, f"{field}.{name}", parameter)))
            return pl.Struct(fields)
        case list() if len(dtype) == 1:
            return pl.List(_as_dtype(dtype[0], field, parameter))
        case list():
            msg = (
                f"the {parameter}'s field {field!r} has a list of {len(dtype)} dtypes; a list of "
                "one, such as [pl.Int64], stands for pl.List(pl.Int64)"
            )
            raise TypeError(msg)
    msg = (
        f"the {parameter}'s field {field!r} must have a dtype, a Python type, a dict of names to "
        f"them or a list of one, not {dtype!r}"
    )
    raise TypeError(msg)


def _of_python(python_type: type, field: str, parameter: str) -> Dtype:
    if issubclass(python_type, Enum):
        return pl.Enum(python_type)
    if python_type not in _OF_PYTHON:
        msg = (
            f"the {parameter}'s field {field!r} has the Python type {python_type.__name__}, which "
            "does not say what dtype is meant; write a Polars dtype, such as pl.Decimal(10, 2)"
        )
        raise SchemaError(msg)
    return _OF_PYTHON[python_type]


def _check_dtype(field: str, dtype: object) -> None:
    """Refuse dtypes that have no text form here already: Polars panics on some of them."""
    if not isinstance(dtype, DataType | DataTypeClass):
        return
    base = dtype.base_type()
    if base not in DTYPES:
        msg = (
            f"the field {field!r} has the dtype {dtype}, which has no text form; "
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
