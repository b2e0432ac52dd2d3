"""What makes instances of a model: pydantic for its models and dataclasses, or msgspec."""

from __future__ import annotations

from typing import Any, Protocol

import pydantic

from redfloe.messages._schema_of import is_struct, the_msgspec


class Validator(Protocol):
    """Makes instances of a model, many at a time; ValueError where one does not fit."""

    def many(self, rows: list[dict[str, Any]]) -> list[Any]: ...
    def one(self, row: dict[str, Any]) -> Any: ...
    def one_of_json(self, text: bytes) -> Any: ...
    def to_json(self, event: Any) -> bytes: ...


def validator_of(model: type) -> Validator:
    """Give what makes events of a model."""
    return _Struct(model) if is_struct(model) else _Pydantic(model)


class _Pydantic:
    """For pydantic models and dataclasses."""

    def __init__(self, model: type) -> None:
        self._one: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(model)
        self._many: pydantic.TypeAdapter[list[Any]] = pydantic.TypeAdapter(
            list[model]  # type: ignore[valid-type]  # a variable
        )

    def many(self, rows: list[dict[str, Any]]) -> list[Any]:
        return self._many.validate_python(rows, strict=False)

    def one(self, row: dict[str, Any]) -> Any:
        return self._one.validate_python(row, strict=False)

    def one_of_json(self, text: bytes) -> Any:
        return self._one.validate_json(text)

    def to_json(self, event: Any) -> bytes:
        return self._one.dump_json(event, by_alias=True)


class _Struct:
    """For msgspec."""

    def __init__(self, model: type) -> None:
        self._msgspec = msgspec = the_msgspec()
        self._model, self._list = model, list[model]  # type: ignore[valid-type]  # a variable
        self._decoder = msgspec.json.Decoder(model)

    def many(self, rows: list[dict[str, Any]]) -> list[Any]:
        found: list[Any] = self._msgspec.convert(rows, self._list, strict=False)
        return found

    def one(self, row: dict[str, Any]) -> Any:
        return self._msgspec.convert(row, self._model, strict=False)

    def one_of_json(self, text: bytes) -> Any:
        return self._decoder.decode(text)

    def to_json(self, event: Any) -> bytes:
        document: bytes = self._msgspec.json.encode(event)
        return document
