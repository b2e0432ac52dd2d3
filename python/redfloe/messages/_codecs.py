"""Codecs: how a message is an entry, in our layout and in those of other libraries."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from uuid import uuid4

import polars as pl

from redfloe.messages._doubt import Misfit
from redfloe.messages._envelopes import loaded, pack_texts, parse_envelope, unpack_texts
from redfloe.messages._kinds import DICT, DictKind, Kind, kind_of
from redfloe.messages._schema_of import METADATA, OF_READS, TYPE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Rows(ABC):
    """The messages of a batch, as its entries say them."""

    #: The type of each; None where an entry does not say it.
    types: Sequence[str | None]

    def by_type(self) -> list[tuple[str | None, list[int] | None]]:
        """Give the rows of each type; None where all are of one."""
        names = dict.fromkeys(self.types)
        if len(names) == 1:
            return [(self.types[0], None)]
        rows: dict[str | None, list[int]] = {name: [] for name in names}
        for row, name in enumerate(self.types):
            rows[name].append(row)
        return [*rows.items()]

    @abstractmethod
    def events(self, kind: Kind | DictKind, chosen: Sequence[int] | None) -> list[Any]:
        """Give the event of each row that is chosen, or its `Misfit`; None chooses all."""

    @abstractmethod
    def payload(self, row: int) -> Any:
        """Give a message's payload without a model."""

    @abstractmethod
    def metadata(self, row: int) -> dict[str, Any]:
        """Give what is said about a message."""


class Codec(ABC):
    """How a message is an entry; `RowCodec` unless an app, a handler or a producer says so."""

    #: The field that says the type, where there is one.
    type_field: str | None = None
    #: The field whose JSON document is the event, where that is read as columns.
    document: str | None = None

    def __eq__(self, other: object) -> bool:
        """Say whether it is the same layout."""
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(type(self))

    @abstractmethod
    def options(self, kinds: Sequence[Kind], *, is_open: bool) -> dict[str, Any]:
        """Give what a consumer needs, to read these kinds, or with `is_open` all there are."""

    def typed_options(self, schema: Mapping[str, pl.DataType]) -> dict[str, Any] | None:
        """Give what a consumer needs to read events as these columns, where it can at all."""
        del schema
        return None

    @abstractmethod
    def rows(self, frame: pl.DataFrame) -> Rows:
        """Give the messages of what was read by `options`."""

    @abstractmethod
    def fields(self, name: str | None, payload: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Give a message as an entry's fields, whose values have texts."""

    def frame(
        self,
        types: Sequence[str | None],
        payloads: Sequence[Any],
        metadata: Sequence[Mapping[str, Any]],
    ) -> pl.DataFrame:
        """Give many messages as the rows of a frame, by default by the texts of each."""
        rows = [*map(self.fields, types, payloads, metadata)]
        return pl.DataFrame([*DICT.columns(rows).values()])


class RowCodec(Codec):
    """An event is a row: its fields are the entry's, beside ``_type`` and ``_metadata``.

    Texts are those of `write_stream`, so that `read_stream` with `schema_of` reads the events.
    """

    type_field = TYPE

    def options(self, kinds: Sequence[Kind], *, is_open: bool) -> dict[str, Any]:
        columns: dict[str, pl.DataType] = {}
        for kind in kinds:
            for name, dtype in kind.text_columns.items():
                if columns.get(name) != pl.Binary:
                    columns[name] = dtype
        if is_open:
            binary = {name: dtype for name, dtype in columns.items() if dtype == pl.Binary}
            # A batch none of whose entries can be read has a column too.
            return {"schema_overrides": {TYPE: pl.String(), **binary}}
        return {"schema": {TYPE: pl.String(), METADATA: pl.String(), **columns}}

    def typed_options(self, schema: Mapping[str, pl.DataType]) -> dict[str, Any] | None:
        return {"schema": {TYPE: pl.String(), METADATA: pl.String(), **schema}}

    def rows(self, frame: pl.DataFrame) -> Rows:
        return _FieldRows(frame)

    def fields(self, name: str | None, payload: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
        fields = kind_of(payload).values(payload)
        _refuse_metadata(fields)
        return {TYPE: name, METADATA: _text_of(metadata), **fields}

    def frame(
        self,
        types: Sequence[str | None],
        payloads: Sequence[Any],
        metadata: Sequence[Mapping[str, Any]],
    ) -> pl.DataFrame:
        if len(set(map(type, payloads))) == 1:
            columns = kind_of(payloads[0]).columns(payloads)
        else:
            columns = DICT.columns([kind_of(payload).values(payload) for payload in payloads])
        _refuse_metadata(columns)
        beside = [
            pl.Series(TYPE, types, dtype=pl.String),
            _metadata_column(METADATA, metadata),
        ]
        return pl.DataFrame([*beside, *columns.values()])


def _refuse_metadata(fields: Mapping[str, Any]) -> None:
    """Refuse a payload that would pass for what is said about it."""
    if not OF_READS.isdisjoint(fields):
        taken = next(name for name in fields if name in OF_READS)
        msg = f"the payload has a field {taken!r}, which is what entries and reads call metadata"
        raise ValueError(msg)


class ColumnRows(Rows):
    """Rows of columns that have their dtypes already, of which only the type is to be said."""

    def __init__(self, frame: pl.DataFrame, type_field: str | None) -> None:
        self._frame = frame
        self._type_field = type_field

    @cached_property
    def types(self) -> Sequence[str | None]:  # type: ignore[override]  # made where it is asked for
        return _texts(self._frame, self._type_field)

    def by_type(self) -> list[tuple[str | None, list[int] | None]]:
        name = self._type_field
        if name is None or name not in self._frame.columns:
            return [(None, None)]
        column = self._frame.get_column(name)
        return [(column[0], None)] if column.n_unique() == 1 else super().by_type()

    def events(self, kind: Kind | DictKind, chosen: Sequence[int] | None) -> list[Any]:
        del kind
        rows = range(self._frame.height) if chosen is None else chosen
        return [self.payload(row) for row in rows]

    def payload(self, row: int) -> Any:
        return self._frame.row(row, named=True)

    def metadata(self, row: int) -> dict[str, Any]:
        del row
        return {}


class _FieldRows(Rows):
    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame
        self.types = _texts(frame, TYPE)
        self._columns: dict[str, list[Any]] | None = None
        self._metadata: list[str | None] | None = None

    def events(self, kind: Kind | DictKind, chosen: Sequence[int] | None) -> list[Any]:
        if isinstance(kind, DictKind):
            rows = range(self._frame.height) if chosen is None else chosen
            return [self.payload(row) for row in rows]
        return kind.of_texts(self._frame if chosen is None else self._frame[chosen])

    def payload(self, row: int) -> Any:
        if self._columns is None:
            self._columns = {
                column.name: column.to_list()
                for column in self._frame.get_columns()
                if column.name not in (TYPE, METADATA)
            }
        return {
            name: values[row] for name, values in self._columns.items() if values[row] is not None
        }

    def metadata(self, row: int) -> dict[str, Any]:
        if self._metadata is None:
            self._metadata = _texts(self._frame, METADATA)
        return _object_of(self._metadata[row])


class JsonCodec(Codec):
    """One field holds the event as a JSON document, others its type and its metadata.

    Parameters
    ----------
    type, payload, metadata : str or None
        The fields' names; None where there is none.

    Examples
    --------
    >>> from redfloe.messages import JsonCodec, Message, Producer
    >>> dtpyfw = JsonCodec(type="name", payload="body", metadata=None)
    >>> with Producer(url, "users", codec=dtpyfw) as producer:
    ...     entry_id = producer.publish(Message("user.created", {"user_id": 123}))
    >>> import redfloe
    >>> redfloe.read_stream(url, "users")["body"].item()
    '{"user_id":123}'
    """

    def __init__(
        self,
        *,
        type: str | None = "event_type",  # noqa: A002 - as of a Message
        payload: str = "payload",
        metadata: str | None = "metadata",
    ) -> None:
        self.type_field, self._payload, self._metadata = type, payload, metadata
        self.document = payload
        self._beside = {name: pl.String() for name in (type, metadata) if name is not None}

    def options(self, kinds: Sequence[Kind], *, is_open: bool) -> dict[str, Any]:
        del kinds, is_open
        return {"schema": {**self._beside, self._payload: pl.Binary()}}

    def typed_options(self, schema: Mapping[str, pl.DataType]) -> dict[str, Any] | None:
        return _of_document(self._payload, self._beside, schema)

    def rows(self, frame: pl.DataFrame) -> Rows:
        return _DocumentRows(
            _texts(frame, self.type_field),
            frame.get_column(self._payload).to_list(),
            [_object_of(text) for text in _texts(frame, self._metadata)],
        )

    def fields(self, name: str | None, payload: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {self._payload: kind_of(payload).to_json(payload)}
        if self.type_field is not None:
            fields[self.type_field] = name
        if self._metadata is not None:
            fields[self._metadata] = _text_of(metadata)
        return fields

    def frame(
        self,
        types: Sequence[str | None],
        payloads: Sequence[Any],
        metadata: Sequence[Mapping[str, Any]],
    ) -> pl.DataFrame:
        documents = [kind_of(payload).to_json(payload) for payload in payloads]
        columns = [pl.Series(self._payload, documents, dtype=pl.Binary)]
        if self.type_field is not None:
            columns.append(pl.Series(self.type_field, types, dtype=pl.String))
        if self._metadata is not None:
            columns.append(_metadata_column(self._metadata, metadata))
        return pl.DataFrame(columns)


class NatricineCodec(Codec):
    """What natricine's RedisStreamPublisher writes: a UUID, a payload, metadata in MessagePack.

    No field says the type: natricine has a stream for each.
    """

    document = "payload"

    def options(self, kinds: Sequence[Kind], *, is_open: bool) -> dict[str, Any]:
        del kinds, is_open
        return {"schema": {"payload": pl.Binary(), "metadata": pl.Binary()}}

    def typed_options(self, schema: Mapping[str, pl.DataType]) -> dict[str, Any] | None:
        beside = {"_natricine_message_uuid": pl.String(), "metadata": pl.Binary()}
        return _of_document("payload", beside, schema)

    def rows(self, frame: pl.DataFrame) -> Rows:
        metadata = [unpack_texts(packed) for packed in frame.get_column("metadata").to_list()]
        payloads = frame.get_column("payload").to_list()
        return _DocumentRows([None] * frame.height, payloads, metadata)

    def fields(self, name: str | None, payload: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
        del name
        fields: dict[str, Any] = {
            "_natricine_message_uuid": str(uuid4()),
            "payload": kind_of(payload).to_json(payload),
        }
        if metadata:
            fields["metadata"] = pack_texts(metadata)
        return fields


class FastStreamCodec(Codec):
    """What FastStream writes: one field with a binary envelope, or JSON before 0.6; to be read.

    Its headers are the metadata. The header ``type`` says the type where a publisher gives one.

    Parameters
    ----------
    field : str, default "__data__"
        The field's name.
    """

    def __init__(self, field: str = "__data__") -> None:
        self._field = field

    def options(self, kinds: Sequence[Kind], *, is_open: bool) -> dict[str, Any]:
        del kinds, is_open
        return {"schema": {self._field: pl.Binary()}}

    def rows(self, frame: pl.DataFrame) -> Rows:
        parsed = [parse_envelope(data) for data in frame.get_column(self._field).to_list()]
        headers = [headers for _, headers in parsed]
        types = [None if "type" not in one else str(one["type"]) for one in headers]
        return _DocumentRows(types, [data for data, _ in parsed], headers)

    def fields(self, name: str | None, payload: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
        del name, payload, metadata
        msg = "FastStream's envelope is read only; publish with another codec, or by FastStream"
        raise TypeError(msg)


class _DocumentRows(Rows):
    """Rows whose events are JSON documents."""

    def __init__(
        self,
        types: list[str | None],
        documents: list[bytes | None],
        metadata: list[dict[str, Any]],
    ) -> None:
        self.types = types
        self._documents = documents
        self._metadata = metadata

    def events(self, kind: Kind | DictKind, chosen: Sequence[int] | None) -> list[Any]:
        documents = self._documents
        if chosen is not None:
            documents = [documents[row] for row in chosen]
        if isinstance(kind, DictKind):
            return [_document(document) for document in documents]
        return kind.of_json([document or b"" for document in documents])

    def payload(self, row: int) -> Any:
        found = _document(self._documents[row])
        return self._documents[row] if isinstance(found, Misfit) else found

    def metadata(self, row: int) -> dict[str, Any]:
        return self._metadata[row]


def prefix_of(document: str | None) -> str:
    """Give what the names of columns begin with that are of a document: fields have none."""
    return "" if document is None else f"{document}."


def _of_document(
    document: str, beside: Mapping[str, pl.DataType], schema: Mapping[str, pl.DataType]
) -> dict[str, Any] | None:
    prefix = prefix_of(document)
    columns = {prefix + name: dtype for name, dtype in schema.items()}
    if beside.keys() & columns.keys():
        return None  # which of the two a column is could not be told
    return {"schema": {**beside, **columns}, "payload": document, "payload_prefix": prefix}


def _document(text: bytes | None) -> Any:
    if text is None:
        return Misfit("has no payload")
    try:
        return loaded(text)
    except ValueError as error:
        return Misfit(f"has a payload that is no JSON: {error}")


def _texts(frame: pl.DataFrame, name: str | None) -> list[str | None]:
    if name is None or name not in frame.columns:
        return [None] * frame.height
    return frame.get_column(name).to_list()


def _metadata_column(name: str, metadata: Sequence[Mapping[str, Any]]) -> pl.Series:
    texts = [*map(_text_of, metadata)] if any(metadata) else [None] * len(metadata)
    return pl.Series(name, texts, dtype=pl.String)


def _text_of(metadata: Mapping[str, Any]) -> str | None:
    return json.dumps(metadata, ensure_ascii=False, default=str) if metadata else None


def _object_of(text: str | None) -> dict[str, Any]:
    """Give metadata; what is no JSON object is kept as a text."""
    if not text:
        return {}
    try:
        found = loaded(text)
    except ValueError:
        found = text
    return found if isinstance(found, dict) else {METADATA: found}


CodecLike: TypeAlias = Literal["row", "json", "natricine", "faststream"] | Codec

_NAMED: dict[str, Codec] = {
    "row": RowCodec(),
    "json": JsonCodec(),
    "natricine": NatricineCodec(),
    "faststream": FastStreamCodec(),
}


def codec_of(codec: CodecLike) -> Codec:
    """Give the codec that is meant."""
    if isinstance(codec, Codec):
        return codec
    if codec not in _NAMED:
        names = ", ".join(map(repr, _NAMED))
        msg = f"codec must be one of {names}, or a Codec, not {codec!r}"
        raise ValueError(msg)
    return _NAMED[codec]
