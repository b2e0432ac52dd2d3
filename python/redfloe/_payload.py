"""Python's values as a payload's object, by the same texts as a frame's."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING

from redfloe._frame import DEEPEST
from redfloe._values import builtin

if TYPE_CHECKING:
    from redfloe._payload_schema import PayloadSchema


def document(
    fields: object, payload_format: str | PayloadSchema, names: Sequence[str] | None = None
) -> bytes:
    """Give the object of an entry's values, where a None is a key that it lacks.

    With names it is an array of the values that they have.
    """
    if not isinstance(fields, Mapping):
        msg = f"fields must be a mapping of names to values, not {type(fields).__name__}"
        raise TypeError(msg)
    present = {name: value for name, value in fields.items() if builtin(value) is not None}
    if payload_format == "json":
        return json_text(present, "the payload").encode()
    from redfloe._msgpack import packed

    if names is not None:
        for name in present:
            if name not in names:
                msg = f"the field {name!r} is not one of payload_fields"
                raise ValueError(msg)
        return packed([present.get(name) for name in names], "the payload")
    text = packed(present, "the payload")
    return text if isinstance(payload_format, str) else payload_format._compiled.pack(text)


def check_depth(given: object, depth: int) -> None:
    """Refuse what nobody could read again."""
    if depth > DEEPEST and isinstance(given, list | tuple | Mapping):
        msg = f"the payload has a value nested more than {DEEPEST} levels deep, beyond reading"
        raise ValueError(msg)


def no_text(value: object, where: str, what: str) -> TypeError:
    """Give the error for a value that the format does not have."""
    return TypeError(
        f"{where} has a {type(value).__name__}, for which there is no one {what}; make it a str, a "
        "number, a list or a dict"
    )


def check_member(name: object, where: str) -> str:
    """Give a member's name."""
    if not isinstance(name, str):
        msg = f"the keys of {where} must be str, not {type(name).__name__}"
        raise TypeError(msg)
    return name


def json_text(given: object, where: str, depth: int = 0) -> str:
    check_depth(given, depth)
    value = builtin(given)
    match value:
        case None:
            return "null"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float() | Decimal() if not math.isfinite(value):
            return f'"{value}"'  # which JSON has no number for
        case float():
            return repr(value)
        case Decimal():
            return str(value)
        case bytes():
            return f'"{b64encode(value).decode()}"'
        case date() | time():
            return f'"{value.isoformat()}"'
        case list() | tuple():
            items = (
                json_text(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)
            )
            return f"[{','.join(items)}]"
        case Mapping():
            members = (_member(name, item, where, depth) for name, item in value.items())
            return f"{{{','.join(members)}}}"
    raise no_text(value, where, "text in JSON")


def _member(name: object, value: object, where: str, depth: int) -> str:
    key = check_member(name, where)
    text = json_text(value, f"{where}[{name!r}]", depth + 1)
    return f"{json.dumps(key, ensure_ascii=False)}:{text}"
