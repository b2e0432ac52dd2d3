"""Kinds of events: how texts and JSON become a model's instances, and how these become texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any
from uuid import UUID

import polars as pl
import pydantic

from redfloe._consuming.retry import reason_of
from redfloe._payload import json_text
from redfloe._writing.fields import as_pairs
from redfloe.messages._columns import MICROSECOND, column_or_unfit, native
from redfloe.messages._doubt import Misfit, doubtful, frame_of, refuse_another
from redfloe.messages._envelopes import loaded
from redfloe.messages._schema_of import (
    ModelField,
    fields_of,
    is_model,
    is_struct,
    the_msgspec,
)
from redfloe.messages._validators import validator_of

#: What no model takes for a duration.
_TOO_LONG = "longer than a timedelta can be"
_TEXTS = (pl.String, pl.Binary)


class Kind:
    """A model: the events of a type."""

    def __init__(self, model: type) -> None:
        self.model = model
        self.name = type_name(model)
        self.fields = fields_of(model)
        self._validator = validator_of(model)
        self._dump = _dump_of(model)
        self.writes_itself = self._dump is not None
        self._writers = [
            _Writer(field, self._getter(field), _document_of(model, field)) for field in self.fields
        ]
        #: What is written is read again, before it is sent, where some types are not plain.
        self.doubtful = doubtful(model)
        # What takes all fields at once, where none is a document.
        self._names = [field.name for field in self.fields]
        is_flat = not any(field.is_document for field in self.fields)
        self._all = (
            attrgetter(*(field.attribute for field in self.fields))
            if is_flat and self._dump is None and not self.doubtful and len(self.fields) > 1
            else None
        )
        self._takes_extra = getattr(model, "model_config", {}).get("extra") == "allow"
        self._refusing = [
            (field, attrgetter(field.attribute)) for field in self.fields if field.loses_none
        ]

    def __repr__(self) -> str:
        return f"<Kind {self.name}>"

    # Reading

    @property
    def text_columns(self) -> dict[str, pl.DataType]:
        """The fields as they are read for `of_texts`: as texts, and bytes as bytes."""
        return {
            field.name: field.dtype if field.dtype == pl.Binary else pl.String()
            for field in self.fields
        }

    def of_texts(self, frame: pl.DataFrame) -> list[Any]:
        """Give the event of each row, or its `Misfit`."""
        names, columns, none = [], [], []
        for field in self.fields:
            if field.name in frame.columns:
                names.append(field.name)
                columns.append(_values(field, frame.get_column(field.name)))
            if field.required and field.nullable:
                none.append(field.name)
        if not names:
            rows: list[dict[str, Any]] = [{} for _ in range(frame.height)]
        elif any(None in column for column in columns):
            rows = [
                {name: value for name, value in zip(names, row, strict=True) if value is not None}
                for row in zip(*columns, strict=True)
            ]
        else:
            rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        for name in none:
            for row in rows:
                row.setdefault(name, None)
        try:
            return self._validator.many(rows)
        except Exception:  # noqa: BLE001 - a validator of the model's may raise anything
            return [self._one(row, self._validator.one) for row in rows]

    def of_json(self, texts: list[bytes]) -> list[Any]:
        """Give the event of each JSON document, or its `Misfit`."""
        # Each alone: pieces of broken documents that are joined may make sense.
        return [self._one(text, self._validator.one_of_json) for text in texts]

    def _one(self, given: Any, one: Callable[[Any], Any]) -> Any:
        try:
            return one(given)
        except pydantic.ValidationError as error:
            return self.misfit(
                [
                    f"{'.'.join(map(str, detail['loc'])) or 'it'}: {detail['msg']}"
                    for detail in error.errors(include_url=False, include_context=False)
                ]
            )
        except Exception as error:  # noqa: BLE001 - a validator of the model's may raise anything
            return self.misfit([reason_of(error)])

    def frame(self, events: Sequence[Any]) -> tuple[pl.DataFrame, dict[int, Misfit]]:
        """Give events as the columns of `schema_of`, and which do not fit them, by number."""
        columns = []
        reasons: dict[int, list[str]] = {}
        for field in self.fields:
            get = attrgetter(field.attribute)
            column, unfit = column_of(field, [get(event) for event in events])
            columns.append(column)
            for number, reason in unfit.items():
                reasons.setdefault(number, []).append(f"{field.name}: {reason}")
        return pl.DataFrame(columns), {one: self.misfit(why) for one, why in reasons.items()}

    def misfit(self, reasons: Sequence[str]) -> Misfit:
        """Say what is wrong with an entry that is no event of this kind."""
        return Misfit(f"is no {self.name}: {'; '.join(reasons)}")

    # Writing

    def _getter(self, field: ModelField) -> Callable[[Any], Any]:
        """Give what takes a field out of an event, or of what it serialises itself to."""
        if self._dump is not None:
            return lambda dumped: dumped.get(field.name)
        return attrgetter(field.attribute)

    def check(self, event: Any) -> None:
        """Refuse an event that would be read as another one."""
        if extra := getattr(event, "__pydantic_extra__", None):
            msg = (
                f"this {self.name} has fields that its model does not declare, which nobody would "
                f"read: {', '.join(map(repr, extra))}"
            )
            raise ValueError(msg)
        for field, get in self._refusing:
            if get(event) is None:
                msg = (
                    f"{self.name}.{field.attribute} is None, which an entry says by leaving the "
                    "field out, and would be read as its default; make None the default"
                )
                raise ValueError(msg)

    def values(self, event: Any) -> dict[str, Any]:
        """Give an event's fields, as values that have a text; None is left out there."""
        self.check(event)
        if self._all is not None and _NATIVE.issuperset(map(type, values := self._all(event))):
            return dict(zip(self._names, values, strict=True))
        given = event if self._dump is None else self._dump([event])[0]
        written = {writer.name: writer.value(given) for writer in self._writers}
        if self.doubtful:
            refuse_another(self, event, self.of_texts(frame_of(written, self.text_columns))[0])
        return written

    def columns(self, events: Sequence[Any]) -> dict[str, pl.Series]:
        """Give the fields of many events."""
        given = events if self._dump is None else self._dump(events)
        columns = {writer.name: writer.column(given) for writer in self._writers}
        if self.doubtful:
            for event in events:
                self.values(event)
        elif self._takes_extra or any(
            columns[field.name].null_count() for field, _ in self._refusing
        ):
            for event in events:
                self.check(event)
        return columns

    def to_json(self, event: Any) -> bytes:
        """Give an event as a JSON document."""
        document = self._validator.to_json(event)
        if self.doubtful:
            refuse_another(self, event, self.of_json([document])[0])
        return document


class DictKind:
    """Events without a model: dicts, whose values are texts when they are read from fields."""

    fields: tuple[ModelField, ...] = ()

    def values(self, event: Any) -> dict[str, Any]:
        """Give the fields, as values that have a text."""
        if not isinstance(event, Mapping):
            msg = (
                "a message's payload must be a mapping or an instance of a model, not "
                f"{type(event).__name__}"
            )
            raise TypeError(msg)
        return {name: _plain(value) for name, value in event.items()}

    def columns(self, events: Sequence[Any]) -> dict[str, pl.Series]:
        """Give the fields of many events: a column for each name that one has."""
        rows = [self.values(event) for event in events]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: _text_column(name, [row.get(name) for row in rows]) for name in names}

    def to_json(self, event: Any) -> bytes:
        """Give an event as a JSON document."""
        return json_text(
            {name: _in_json(value) for name, value in event.items()}, "the payload"
        ).encode()


DICT = DictKind()


def kind_of(event: Any) -> Kind | DictKind:
    """Give the kind of an event."""
    return DICT if isinstance(event, Mapping) else _kind_of_instance(event)


def _kind_of_instance(event: Any) -> Kind:
    return kind_of_model(event.__class__)


def kind_of_model(model: type) -> Kind:
    """Give a model's kind."""
    return _remembered(model)


_remembered = lru_cache(maxsize=1024)(Kind)


def type_name(model: type) -> str:
    """Give what entries call a model's events."""
    return _remembered_name(model)


def name_of_model(model: type) -> str | None:
    """Give what entries call events of this class; None where it is no model."""
    return _remembered_name_of_model(model)


def _name(model: type) -> str:
    return str(getattr(model, "__message_type__", None) or model.__name__)


# A pydantic model takes its time to say that it has no such attribute.
_remembered_name = lru_cache(maxsize=1024)(_name)
_remembered_name_of_model = lru_cache(maxsize=1024)(
    lambda model: type_name(model) if is_model(model) else None
)


# Texts to values


def _values(field: ModelField, column: pl.Series) -> list[Any]:
    """Give a column of texts as the model takes them; what is absent is None."""
    if field.dtype != pl.Binary and column.dtype == pl.Binary:
        # Another model's field of the same name is bytes.
        column = column.cast(pl.String, strict=False)
    values: list[Any] = column.to_list()
    if field.dtype not in _TEXTS and "" in values:
        values = [value or None for value in values]
    if field.values is not None:
        return [field.values.get(value, value) for value in values]
    if field.is_document:
        return [*map(_loaded, values)]
    if field.dtype == pl.Duration:
        return [*map(_duration, values)]
    return values


def _loaded(text: str | None) -> Any:
    """Give a document; what is none is a text, which the model may take."""
    if text is None or text[:1] not in ("[", "{"):
        return text
    try:
        return loaded(text)
    except ValueError:
        return text


def _duration(text: str | None) -> Any:
    try:
        return None if text is None else timedelta(microseconds=int(text))
    except ValueError:
        return text  # in ISO 8601, which the model takes
    except OverflowError:
        return _TOO_LONG


def column_of(field: ModelField, values: Sequence[Any]) -> tuple[pl.Series, dict[int, str]]:
    """Give values of a model's field as a column of its dtype, and what is wrong with which."""
    to_native: Callable[[Any], Any] = partial(native, dtype=field.dtype)
    if field.is_document and field.dtype == pl.String:
        to_native = _document_of(type(None), field)
    given: list[Any] = []
    for value in values:
        try:
            given.append(None if value is None else to_native(value))
        except Exception:  # noqa: BLE001 - a serialiser of the model's may raise anything
            given.append(None)
    column, nulls = column_or_unfit(field.name, given, field.dtype)
    unfit = [number for number in nulls if values[number] is not None]
    return column, {number: f"{_short(values[number])} does not fit" for number in unfit}


def _short(value: Any) -> str:
    try:
        return f"{value!s:.100}"
    except Exception:  # noqa: BLE001 - it is the model's, and may do anything
        return type(value).__name__


# Values to texts


class _Writer:
    """Writes a field of events."""

    def __init__(
        self,
        field: ModelField,
        get: Callable[[Any], Any],
        document: Callable[[Any], str] | None,
    ) -> None:
        self.name = field.name
        self._get = get
        self._document = document if field.is_document else None
        # What Polars takes as it is.
        self._dtype = (
            field.dtype
            if field.dtype in (pl.Int64, pl.Float64, pl.String, pl.Boolean, pl.Binary)
            and not field.is_document
            else None
        )

    def value(self, event: Any) -> Any:
        value = self._get(event)
        if value is None:
            return None
        return self._document(value) if self._document is not None else _plain(value)

    def column(self, events: Sequence[Any]) -> pl.Series:
        if self._document is not None:
            return _text_column(self.name, [*map(self.value, events)])
        values = [*map(self._get, events)]
        if self._dtype is None:
            return _text_column(self.name, values)
        try:
            return pl.Series(self.name, values, dtype=self._dtype, strict=True)
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            # Not what it was declared to be, or more than 64 bits.
            return _text_column(self.name, values)


def _text_column(name: str, values: list[Any]) -> pl.Series:
    """Give the texts of a column, or bytes where they are none."""
    kinds = set(map(type, values)) - {type(None)}
    if len(kinds) == 1 and (to_text := _QUICK.get(*kinds)) is not None:
        quick = [None if value is None else to_text(value) for value in values]
        return pl.Series(name, quick, dtype=pl.String)
    texts = [None if value is None else _text(name, _plain(value)) for value in values]
    try:
        return pl.Series(
            name, [None if text is None else text.decode() for text in texts], dtype=pl.String
        )
    except UnicodeDecodeError:
        return pl.Series(name, texts, dtype=pl.Binary)


#: What has a text as it is.
_NATIVE = frozenset((type(None), str, bytes, bool, int, float, Decimal, datetime, date, time))

#: What needs no look at each value.
_QUICK: dict[type, Callable[[Any], str]] = {
    str: str,
    int: str,
    Decimal: str,
    date: date.isoformat,
    UUID: str,
}


def _text(name: str, value: Any) -> bytes | None:
    pairs = as_pairs({name: value})
    return pairs[0][1] if pairs else None


def _plain(value: Any) -> Any:
    """Give a value that `as_pairs` has a text for."""
    if type(value) in _NATIVE:
        return value
    match value:
        case Enum():
            return _plain(value.value)
        case UUID():
            return str(value)
        case timedelta():
            return value // MICROSECOND
        case Mapping() | list() | tuple() | set() | frozenset():
            return json_text(_in_json(value), "a field")
        case _ if is_struct(type(value)) or isinstance(value, pydantic.BaseModel):
            return _kind_of_instance(value).to_json(value).decode()
    return value


def _in_json(value: Any) -> Any:
    """Give a value that `json_text` has a text for."""
    match value:
        case Mapping():
            return {name: _in_json(item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_in_json(item) for item in value]
        case Enum():
            return _in_json(value.value)
        case UUID():
            return str(value)
        case timedelta():
            return value // MICROSECOND
        case pydantic.BaseModel():
            return value.model_dump(mode="json", by_alias=True)
    return value


def _dump_of(model: type) -> Callable[[Sequence[Any]], list[Any]] | None:
    """Give how a model serialises itself, where it has a way of its own."""
    if not issubclass(model, pydantic.BaseModel):
        return None
    decorators = model.__pydantic_decorators__
    serialises = (pydantic.PlainSerializer, pydantic.WrapSerializer)
    has_own = (
        decorators.field_serializers
        or decorators.model_serializers
        or any(
            isinstance(one, serialises)
            for info in model.model_fields.values()
            for one in info.metadata
        )
    )
    if not has_own:
        return None
    adapter = pydantic.TypeAdapter(list[model])  # type: ignore[valid-type]  # a variable
    return lambda events: adapter.dump_python([*events], mode="json", by_alias=True)


def _document_of(model: type, field: ModelField) -> Callable[[Any], str]:
    """Give what makes a text of a field that only JSON can say."""
    if is_struct(model):
        msgspec = the_msgspec()
        return lambda value: _unquoted(msgspec.json.encode(value).decode())
    if _dump_of(model) is not None:
        return lambda value: value if isinstance(value, str) else json.dumps(value)
    adapter = _json_adapter(field.annotation)
    return lambda value: _unquoted(adapter.dump_json(value, by_alias=True).decode())


def _json_adapter(annotation: Any) -> pydantic.TypeAdapter[Any]:
    """Give what writes a document; where models do not decide, it keeps NaN and infinities."""
    try:
        return pydantic.TypeAdapter(
            annotation, config=pydantic.ConfigDict(ser_json_inf_nan="strings")
        )
    except pydantic.PydanticUserError:
        return pydantic.TypeAdapter(annotation)


def _unquoted(document: str) -> str:
    """Give a JSON string as the text that it is."""
    return str(json.loads(document)) if document.startswith('"') else document
