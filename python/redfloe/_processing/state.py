"""A processor's state: values by name, of which those that have changed are written."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any, TypeVar

import polars as pl

from redfloe._errors import DecodeError, SchemaError
from redfloe._processing import models, values
from redfloe._schema import as_text

M = TypeVar("M")

#: How values are laid out; a newer one is refused.
FORMAT = 1

#: Names that begin with a zero byte are redfloe's own: this and a table's name is a field with the
#: newest time that the table has seen, and that and a window's name one with what is known of it.
_OWN = "\0"
_NEWEST = b"\0newest:"
_WINDOW = b"\0window:"


class ProcessorState(MutableMapping[str, Any]):
    """A processor's state, ``tx.state``: a dict that is saved with each commit.

    Values are None, bools, ints of any size, floats (NaN too), text, bytes, lists, dicts (with keys
    of any of these types), tuples, sets, datetimes, dates, times, timedeltas, Decimals and UUIDs,
    which all come back as what they were; polars DataFrames; and objects with declared attributes,
    which `model` gives: dataclasses, pydantic models and `State`. They are saved as JSON, frames as
    Arrow IPC, compressed; never as pickles.

    Only values that differ from what was saved are written. What a transaction has taken from the
    state may be changed in place, as in ``tx.state["seen"].append(1)``. Take it from there in each
    transaction: after one that failed, the state has other objects, as they were saved.
    """

    def __init__(self, fields: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._saved: dict[str, bytes] = {}
        #: redfloe's own fields, as saved, and as to be saved.
        self._saved_own: dict[bytes, bytes] = {}
        for field, value in fields:
            try:
                if field.startswith(_OWN.encode()):
                    if field.startswith(_NEWEST):
                        int(value)
                    self._saved_own[field] = value
                    continue
                self._saved[field.decode()] = value
            except UnicodeDecodeError:
                msg = f"the state has the name {field!r}, which is no text; delete that field"
                raise DecodeError(msg) from None
            except ValueError:
                msg = (
                    f"the state's field {field!r} is {value!r:.40}, and no time; delete that field"
                )
                raise DecodeError(msg) from None
        self._own, self._pending_own = dict(self._saved_own), self._saved_own
        #: What was taken or set, and stays as an object.
        self._values: dict[str, Any] = {}
        #: Frames as they were saved. Polars copies what is changed in place.
        self._frames: dict[str, pl.DataFrame] = {}
        #: Names taken, set or deleted in this transaction, in order.
        self._touched: dict[str, None] = {}
        self._deleted: set[str] = set()
        #: Objects of others, and their attributes as they were.
        self._bound: dict[str, bytes] = {}
        self._pending: dict[str, bytes | None] = {}
        #: Whether it may be used: a processor's only while a transaction is in hand.
        self.is_open = True

    def _check_open(self) -> None:
        if not self.is_open:
            msg = "the transaction of this state has ended; take tx.state from the one in hand"
            raise RuntimeError(msg)

    def __getitem__(self, name: str) -> Any:
        self._check_open()
        if name not in self:
            raise KeyError(name)
        if name not in self._values:
            self._values[name] = self._read(name, None)
        self._touched[name] = None
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._check_open()
        _name(name)
        if name in self._bound and value is not self._values[name]:
            msg = f"the state {name!r} is kept by an object; change that"
            raise ValueError(msg)
        self._touched[name] = None
        self._deleted.discard(name)
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        self._check_open()
        if name not in self:
            raise KeyError(name)
        if name in self._bound:
            msg = f"the state {name!r} is kept by an object, and is there as long as that"
            raise ValueError(msg)
        self._touched[name] = None
        self._values.pop(name, None)
        self._deleted.add(name)

    def clear(self) -> None:
        """Delete all names, without a look at their values."""
        for name in [*self]:
            del self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values or (name in self._saved and name not in self._deleted)

    def __iter__(self) -> Iterator[str]:
        yield from [name for name in self._saved if name not in self._deleted]
        yield from [name for name in self._values if name not in self._saved]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"ProcessorState({', '.join(map(repr, self))})"

    def model(self, kind: type[M], name: str | None = None) -> M:
        """Give the object of that class that the state keeps under a name; a new one at first.

        Parameters
        ----------
        kind : type
            A dataclass, a pydantic model (pydantic 2.11) or a subclass of `State`. A class
            attribute ``version = 2`` and a classmethod ``migrate(cls, old, version)`` say what
            becomes of attributes that an older version has written.
        name : str, optional
            Its name; by default that of the class.

        Raises
        ------
        DecodeError
            What was saved does not fit the class, and no `migrate` converts it.
        TypeError
            It is another kind of class, or cannot be made without arguments, or its annotations do
            not say what its attributes are.
        """
        if not models.is_model(kind):
            msg = f"{kind!r} is neither a dataclass nor a pydantic model nor a subclass of State"
            raise TypeError(msg)
        name = _name(kind.__name__ if name is None else name)
        held = self._values.get(name)
        if not isinstance(held, kind):
            if name in self._values:
                msg = f"the state {name!r} is a {type(held).__name__}, not a {kind.__name__}"
                raise TypeError(msg)
            held = self._read(name, kind) if name in self else kind()
        self[name] = held
        return held

    def bind(self, model: object, name: str | None = None) -> None:
        """Keep an object: give it the attributes that were saved, and save them with each commit.

        After a transaction that failed it has its attributes as they were saved, or as they were
        when it was bound.

        Raises
        ------
        ValueError
            There is another object of that name.
        DecodeError, TypeError
            As for `model`.
        """
        kind = type(model)
        if not models.is_model(kind):
            msg = f"{kind.__name__} is neither a dataclass nor a pydantic model nor a State"
            raise TypeError(msg)
        name = _name(kind.__name__ if name is None else name)
        if self._values.get(name, model) is not model:
            held = type(self._values[name]).__name__
            msg = f"the state {name!r} is another {held} already: bind the object by another name"
            raise ValueError(msg)
        if name in self and name not in self._values:
            models.refill(model, self._read(name, kind))
        self._values[name] = model
        self._deleted.discard(name)
        self._bound[name] = self._write(name, model)

    def newest_ms(self, table: str) -> int | None:
        """Give the newest time of a table that a commit has saved, in milliseconds."""
        newest = self._own.get(_NEWEST + table.encode())
        return None if newest is None else int(newest)

    def keep_newest(self, table: str, newest_ms: int | None) -> None:
        """Have the next commit save the newest time of a table; None forgets it."""
        self._keep(_NEWEST + table.encode(), None if newest_ms is None else b"%d" % newest_ms)

    def window(self, name: bytes) -> bytes | None:
        """Give what is known of a window."""
        return self._own.get(_WINDOW + name)

    def windows(self) -> dict[bytes, bytes]:
        """Give what is known of all windows, by their names."""
        return {
            field.removeprefix(_WINDOW): value
            for field, value in self._own.items()
            if field.startswith(_WINDOW)
        }

    def keep_window(self, name: bytes, known: bytes) -> None:
        """Have the next commit save what is known of a window."""
        self._keep(_WINDOW + name, known)

    def _keep(self, field: bytes, value: bytes | None) -> None:
        if value is None:
            self._own.pop(field, None)
        else:
            self._own[field] = value

    def changes(self) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
        """Give what a commit writes: fields to set, with their values, and fields to delete.

        Raises
        ------
        TypeError, ValueError
            A value cannot be state; the message names it.
        """
        self._pending = {}
        sets: list[tuple[bytes, bytes]] = []
        deletes: list[bytes] = []
        for name in {**self._touched, **self._bound}:
            if name in self._deleted:
                if name in self._saved:
                    self._pending[name] = None
                    deletes.append(name.encode())
                continue
            value = self._values[name]
            if name in self._frames and _is_same(value, self._frames[name]):
                continue
            written = self._write(name, value)
            if written != self._saved.get(name):
                _check_readable(name, written, value)
                self._pending[name] = written
                sets.append((name.encode(), written))
        if self._own != self._saved_own:
            sets += sorted(self._own.items() - self._saved_own.items())
            deletes += sorted(self._saved_own.keys() - self._own.keys())
        self._pending_own = dict(self._own)
        return sets, deletes

    def commit(self) -> None:
        """Take note that the changes are saved."""
        for name, text in self._pending.items():
            if text is None:
                del self._saved[name]
                self._frames.pop(name, None)
                continue
            self._saved[name] = text
            self._keep_frame(name)
        for name in self._bound:
            self._bound[name] = self._saved[name]
        self._saved_own = self._pending_own
        self._begin()

    def rollback(self) -> None:
        """Be as it was saved."""
        self._own = dict(self._saved_own)
        bound = {name: self._values[name] for name in self._bound}
        self._values.clear()
        self._frames.clear()
        for name, model in bound.items():
            text = self._bound[name]
            models.refill(model, _of_bytes(text, type(model)))
            self._values[name] = model
        self._begin()

    def _begin(self) -> None:
        self._touched.clear()
        self._deleted.clear()
        self._pending = {}

    def _read(self, name: str, kind: type[Any] | None) -> Any:
        try:
            value = _of_bytes(self._saved[name], kind)
        except DecodeError as error:
            msg = f"the state {name!r} cannot be read: {error}"
            raise DecodeError(msg) from error
        except _NeedsClassError as needed:
            msg = (
                f"the state {name!r} is a {needed.name}: take it by "
                f"tx.state.model({needed.name}, {name!r})"
            )
            raise SchemaError(msg) from None
        if isinstance(value, pl.DataFrame):
            self._frames[name] = value.clone()
        return value

    def _keep_frame(self, name: str) -> None:
        self._frames.pop(name, None)
        if isinstance(frame := self._values.get(name), pl.DataFrame):
            self._frames[name] = frame.clone()

    def _write(self, name: str, value: object) -> bytes:
        try:
            return _to_bytes(value)
        except RecursionError:
            msg = f"the state {name!r} is nested too deeply, or within itself"
            raise ValueError(msg) from None
        except (TypeError, ValueError) as error:
            msg = f"the state {name!r} cannot be saved: {error}"
            raise (
                type(error)(msg) if type(error) in (TypeError, ValueError) else ValueError(msg)
            ) from error


def _check_readable(name: str, written: bytes, value: object) -> None:
    """Refuse an object that its own class could not make again: the state would be lost with it."""
    kind = type(value)
    if not models.is_model(kind):
        return
    try:
        _of_bytes(written, kind)
    except Exception as error:
        msg = (
            f"the state {name!r} cannot be saved: {kind.__name__} would not take again what it is "
            f"saved as: {error}"
        )
        raise ValueError(msg) from error


def _name(name: object) -> str:
    text = as_text(name, "a name of the state")
    if text.startswith(_OWN):
        msg = f"a name of the state begins with a zero byte, as only redfloe's own do: {text!r}"
        raise ValueError(msg)
    return text


class _NeedsClassError(Exception):
    """A model is to be read, and nobody has said which class it is of."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _is_same(value: object, frame: pl.DataFrame) -> bool:
    return isinstance(value, pl.DataFrame) and value.schema == frame.schema and value.equals(frame)


def _to_bytes(value: object) -> bytes:
    """Give a value as it is saved: JSON with its format and version, and then a frame's bytes."""
    if type(value) is int:  # what states are full of, and the encoder slow to begin with
        return b'{"format":%d,"value":%d}' % (FORMAT, value)
    if type(value) in values.PLAIN:
        return values.dumps({"format": FORMAT, "value": value})
    match value:
        case pl.DataFrame():
            buffer = io.BytesIO()
            try:
                value.write_ipc(buffer, compression="zstd")
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
                msg = f"Polars cannot write the frame as Arrow IPC: {error}"
                raise ValueError(msg) from error
            return values.dumps({"format": FORMAT, "frame": "arrow"}) + b"\n" + buffer.getvalue()
        case pl.LazyFrame() | pl.Series():
            msg = f"it is a polars {type(value).__name__}; make it a DataFrame"
            raise TypeError(msg)
    kind = type(value)
    if models.is_model(kind):
        return values.dumps(
            {
                "format": FORMAT,
                "model": kind.__name__,
                "version": models.version_of(kind),
                "value": models.attributes(value),
            }
        )
    return values.dumps({"format": FORMAT, "value": values.encode(value)})


def _of_bytes(saved: bytes, kind: type[Any] | None) -> Any:
    text, has_frame, frame = saved.partition(b"\n")
    match values.decode(text):
        case {"format": int() as number} if number > FORMAT:
            msg = f"a newer redfloe has written it (format {number}); this one reads {FORMAT}"
            raise DecodeError(msg)
        case {"format": 1, "frame": "arrow"} if has_frame:
            try:
                return pl.read_ipc(io.BytesIO(frame))
            except (
                pl.exceptions.PolarsError,
                pl.exceptions.PanicException,
                ValueError,
                OSError,
            ) as error:
                msg = f"its frame is no Arrow IPC: {error}"
                raise DecodeError(msg) from error
        case {"format": 1, "model": str() as name, "version": int() as version, "value": value}:
            if kind is None:
                raise _NeedsClassError(name)
            return models.make(kind, value, version)
        case {"format": 1, "value": value}:
            return value if kind is None else models.make(kind, value, 0)
    msg = f"{text[:60]!r} is not what redfloe writes"
    raise DecodeError(msg)
