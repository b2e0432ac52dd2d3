"""Models as schemas: which fields an event has, and as which dtypes analysts read them."""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from importlib import import_module
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID

import polars as pl
import pydantic

from redfloe._errors import SchemaError

if typing.TYPE_CHECKING:
    from pydantic.fields import FieldInfo

#: What an entry of the row layout says beside its event's fields.
TYPE, METADATA = "_type", "_metadata"
#: What a read calls the metadata of entries.
OF_READS = frozenset((TYPE, METADATA, "_id", "_ts", "_seq", "_stream"))

#: A Decimal without bounds: more digits than money has on both sides of the point.
_DECIMAL = pl.Decimal(38, 9)
_SCALARS: dict[object, pl.DataType] = {
    bool: pl.Boolean(),
    int: pl.Int64(),
    float: pl.Float64(),
    str: pl.String(),
    bytes: pl.Binary(),
    Decimal: _DECIMAL,
    datetime: pl.Datetime("us"),
    date: pl.Date(),
    time: pl.Time(),
    timedelta: pl.Duration("us"),
    pydantic.AwareDatetime: pl.Datetime("us", "UTC"),
    pydantic.NaiveDatetime: pl.Datetime("us"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class ModelField:
    """A field of a model, and of the entries that its events become."""

    #: What the entry calls it, and the model's attribute.
    name: str
    attribute: str
    annotation: Any
    required: bool
    default: Any
    default_factory: Callable[[], Any] | None
    dtype: pl.DataType
    #: Whether the dtype says all of it: what it does not is a JSON document.
    is_document: bool
    nullable: bool
    #: The values that it may have, by their texts, where these are not all of them texts.
    values: Mapping[str, Any] | None

    def fresh_default(self) -> Any:
        """Give the default, another one each time where a function makes it."""
        return self.default if self.default_factory is None else self.default_factory()

    @property
    def loses_none(self) -> bool:
        """Whether a None that is written would be read as something else: its default."""
        return not self.required and (self.default_factory is not None or self.default is not None)


def schema_of(model: type) -> pl.Schema:
    """Give the schema that reads a model's events from their stream.

    Fields of the model are fields of the entry; ``_type`` and ``_metadata`` are beside them. A
    nested model is a Struct, a list, set or tuple of one type a List; what has no dtype, such as a
    dict of any keys or a union of models, is a String that holds JSON. A Decimal without
    ``max_digits`` and ``decimal_places`` is Decimal(38, 9); a ``datetime`` is without a time zone,
    in UTC, and a ``pydantic.AwareDatetime`` is of the zone UTC.

    Parameters
    ----------
    model : type
        A pydantic model, a dataclass or a msgspec.Struct.

    Returns
    -------
    pl.Schema
        A dtype for each field, by the name that the entry has it under: the alias where there is
        one.

    Raises
    ------
    TypeError
        It is none of these.
    SchemaError
        A field has no name that an entry can have.

    Examples
    --------
    >>> from pydantic import BaseModel
    >>> import redfloe
    >>> from redfloe.messages import Producer, schema_of
    >>> class Click(BaseModel):
    ...     user: str
    ...     value: int | None = None
    >>> dict(schema_of(Click))
    {'user': String, 'value': Int64}
    >>> with Producer(url, "clicks") as producer:
    ...     entry_id = producer.publish(Click(user="ada", value=3))
    >>> redfloe.read_stream(url, "clicks", schema_of(Click), include_timestamp=False).row(0)[1:]
    ('ada', 3)
    """
    return pl.Schema({field.name: field.dtype for field in fields_of(model)})


def is_model(model: object) -> bool:
    """Say whether it is a class of events."""
    if not isinstance(model, type) or issubclass(model, pydantic.RootModel):
        return False  # what has no fields
    return (
        issubclass(model, pydantic.BaseModel) or dataclasses.is_dataclass(model) or is_struct(model)
    )


def is_struct(model: object) -> bool:
    """Say whether it is a msgspec.Struct, without importing msgspec."""
    if "msgspec" not in sys.modules or not isinstance(model, type):
        return False
    return issubclass(model, the_msgspec().Struct)


def the_msgspec() -> Any:
    """Give msgspec, which need not be installed."""
    return import_module("msgspec")


def fields_of(model: type) -> tuple[ModelField, ...]:
    """Give the fields of a model; an entry can have them all."""
    return _remembered(model)


def check_key(key: str, model: type) -> None:
    """Refuse a key that no event of a model can have: the name of an attribute, perhaps dotted."""
    name, _, inner = key.partition(".")
    field = next((field for field in fields_of(model) if field.attribute == name), None)
    if field is None:
        takes_extra = getattr(model, "model_config", {}).get("extra") == "allow"
        # A property, say, or what is left out of entries.
        named = hasattr(model, name) or any(
            name in vars(one).get("__annotations__", ()) for one in model.__mro__
        )
        if not (takes_extra or named):
            msg = f"key is {key!r}, and {model.__name__} has no field {name!r}"
            raise ValueError(msg)
        return
    bare, _, _ = _stripped(field.annotation)
    if inner and is_model(bare):
        check_key(inner, bare)


def _checked_fields(model: type) -> tuple[ModelField, ...]:
    if not is_model(model):
        msg = (
            f"{getattr(model, '__name__', model)!r} is no model: pass a pydantic model, a "
            "dataclass or a msgspec.Struct"
        )
        raise TypeError(msg)
    fields = tuple(_fields(model))
    for field in fields:
        if field.name in OF_READS or "\0" in field.name:
            msg = (
                f"{model.__name__} has a field {field.name!r}, which is what entries and reads "
                "call their metadata; give it another name or an alias"
            )
            raise SchemaError(msg)
    return fields


_remembered = lru_cache(maxsize=1024)(_checked_fields)


def _fields(model: type, outer: tuple[type, ...] = ()) -> list[ModelField]:
    outer = (*outer, model)
    infos: Mapping[str, FieldInfo] | None = getattr(model, "__pydantic_fields__", None)
    if infos is not None:
        _refuse_unset(model)
        return [
            _field(
                _alias(model, name, info),
                name,
                info.annotation,
                tuple(info.metadata),
                info.is_required(),
                None if info.is_required() or info.default_factory else info.default,
                partial(info.get_default, call_default_factory=True, validated_data={})
                if info.default_factory
                else None,
                outer,
            )
            for name, info in infos.items()
            if not info.exclude
        ]
    hints = typing.get_type_hints(model, include_extras=True)
    if is_struct(model):
        msgspec = the_msgspec()
        absent = msgspec.NODEFAULT
        return [
            _field(
                field.encode_name,
                field.name,
                hints[field.name],
                (),
                field.required,
                None if field.default is absent else field.default,
                None if field.default_factory is absent else field.default_factory,
                outer,
            )
            for field in msgspec.structs.fields(model)
        ]
    missing = dataclasses.MISSING
    _refuse_unset(model)
    return [
        _field(
            field.name,
            field.name,
            hints[field.name],
            (),
            field.default is missing and field.default_factory is missing,
            None if field.default is missing else field.default,
            None if field.default_factory is missing else field.default_factory,
            outer,
        )
        for field in dataclasses.fields(model)
    ]


def _refuse_unset(model: Any) -> None:
    """Refuse a dataclass with fields that cannot be set when an event is read."""
    for field in dataclasses.fields(model) if dataclasses.is_dataclass(model) else ():
        if not field.init:
            msg = (
                f"the field {field.name!r} of {model.__name__} is a field(init=False), which would "
                "not be what it was when the event is read; make it a property"
            )
            raise SchemaError(msg)


def _field(
    name: str,
    attribute: str,
    annotation: Any,
    metadata: tuple[Any, ...],
    required: bool,
    default: Any,
    default_factory: Callable[[], Any] | None,
    outer: tuple[type, ...],
) -> ModelField:
    bare, inner, nullable = _stripped(annotation)
    if bare in (pydantic.SecretStr, pydantic.SecretBytes):
        msg = f"the field {name!r} is a {bare.__name__}, which would be written as asterisks"
        raise SchemaError(msg)
    dtype = _dtype(bare, (*inner, *metadata), outer, nested=False)
    is_document = dtype is None or isinstance(dtype, pl.List | pl.Struct)
    return ModelField(
        name,
        attribute,
        annotation,
        required,
        default,
        default_factory,
        pl.String() if dtype is None else dtype,
        is_document,
        nullable,
        _values_by_text(bare),
    )


def _alias(model: type, name: str, info: FieldInfo) -> str:
    reads, writes = info.validation_alias, info.serialization_alias
    if reads is None and writes is None:
        return name
    if not isinstance(reads, str) or reads != writes:
        msg = (
            f"the field {name!r} of {model.__name__} is read as {reads!r} and written as "
            f"{writes!r}; give it one alias, which is what its entries call it"
        )
        raise SchemaError(msg)
    return reads


def _stripped(annotation: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """Give an annotation without Annotated and None, what was annotated, and whether None fits."""
    metadata: tuple[Any, ...] = ()
    nullable = False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *inner = get_args(annotation)
            metadata = (*metadata, *inner)
        elif origin in (Union, types.UnionType):
            members = [one for one in get_args(annotation) if one is not type(None)]
            nullable |= len(members) < len(get_args(annotation))
            if len(members) != 1:
                return annotation, metadata, nullable
            annotation = members[0]
        elif origin is Literal and None in get_args(annotation):
            annotation = Literal[tuple(one for one in get_args(annotation) if one is not None)]
            nullable = True
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return annotation, metadata, nullable or annotation in (Any, None, type(None))


#: Collections of one type, by what their annotation's origin is.
_COLLECTIONS = (list, set, frozenset, Sequence, Collection, AbstractSet)


def _dtype(
    annotation: Any, metadata: Sequence[Any], outer: tuple[type, ...], *, nested: bool
) -> pl.DataType | None:
    """Give what an annotation is as a column; None for what only JSON can say."""
    if annotation is bytes and nested:
        return None
    if annotation is Decimal:
        return _decimal(metadata)
    try:
        if (known := _SCALARS.get(annotation)) is not None:
            return known
    except TypeError:  # it cannot be hashed
        return None
    origin = get_origin(annotation)
    if origin is Literal:
        return _of_values(get_args(annotation))
    if origin in (Union, types.UnionType):
        return _of_union(annotation, outer, nested=nested)
    if origin in _COLLECTIONS or (origin is tuple and get_args(annotation)[1:] == (...,)):
        inner = _inner(get_args(annotation)[0], outer)
        return None if inner is None else pl.List(inner)
    if not isinstance(annotation, type):
        return None
    if issubclass(annotation, enum.Enum):
        return _of_values([member.value for member in annotation])
    if is_model(annotation):
        return _struct(annotation, outer)
    if issubclass(annotation, Mapping):
        return None
    if issubclass(annotation, UUID):
        return pl.String()
    # A subclass is what its nearest builtin is.
    kind = next((kind for kind in annotation.__mro__ if kind in _SCALARS), None)
    return None if kind is None or (nested and kind is bytes) else _SCALARS[kind]


def _inner(annotation: Any, outer: tuple[type, ...]) -> pl.DataType | None:
    bare, metadata, _ = _stripped(annotation)
    return _dtype(bare, metadata, outer, nested=True)


def _struct(model: type, outer: tuple[type, ...]) -> pl.DataType | None:
    if model in outer:
        return None  # a model inside itself
    members = {}
    for field in _fields(model, outer):
        inner = _inner(field.annotation, outer) if field.is_document else field.dtype
        if inner is None or inner == pl.Binary:
            return None
        members[field.name] = inner
    return pl.Struct(members) if members else None


def _of_union(annotation: Any, outer: tuple[type, ...], *, nested: bool) -> pl.DataType | None:
    """Give the dtype that all members have; numbers of both kinds are Float64."""
    members = [_stripped(one) for one in get_args(annotation) if one is not type(None)]
    dtypes = [_dtype(bare, metadata, outer, nested=nested) for bare, metadata, _ in members]
    first = dtypes[0]
    if all(dtype is not None and dtype == first for dtype in dtypes):
        return first
    if all(dtype in (pl.Int64, pl.Float64) for dtype in dtypes):
        return pl.Float64()
    return None


def _of_values(values: Sequence[object]) -> pl.DataType | None:
    if values and all(isinstance(value, str) for value in values):
        return pl.Enum([str(value) for value in values])
    for kind in (bool, int):
        if all(isinstance(value, kind) for value in values):
            return _SCALARS[kind]
    return None


def _values_by_text(annotation: Any) -> Mapping[str, Any] | None:
    if get_origin(annotation) is Literal:
        values = list(get_args(annotation))
    elif isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        values = [member.value for member in annotation]
    else:
        return None
    if all(isinstance(value, str) for value in values):
        return None
    return {str(value).lower() if value in (True, False) else str(value): value for value in values}


def _decimal(metadata: Sequence[Any]) -> pl.DataType:
    found: dict[str, int] = {}
    # A pydantic.Field in an Annotated has what it was given as its own metadata.
    inner = [one for given in metadata for one in getattr(given, "metadata", ())]
    for one in (*metadata, *inner):
        for name in ("max_digits", "decimal_places"):
            if (value := getattr(one, name, None)) is not None:
                found[name] = value
    match found:
        case {"max_digits": digits, "decimal_places": places}:
            return pl.Decimal(digits, places)
        case {"decimal_places": places}:
            return pl.Decimal(38, places)
    return _DECIMAL
