"""What a producer is given, as an entry's fields."""

from collections.abc import Callable, Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any, TypeAlias

from redfloe._arguments import as_key
from redfloe._values import builtin

#: Values are str, bytes, bool, int, float, Decimal, datetime, date, time or None, and in a JSON
#: payload lists and mappings. A type checker infers `object` for a dict of several, hence Any.
Fields: TypeAlias = Mapping[str, Any] | Mapping[bytes, Any]


def as_pairs(fields: object) -> list[tuple[bytes, bytes]]:
    """Give the names and texts of an entry's fields; None is left out."""
    if not isinstance(fields, Mapping):
        msg = f"fields must be a mapping of names to values, not {type(fields).__name__}"
        raise TypeError(msg)
    return [
        (as_key(name, "a field's name"), text)
        for name, value in fields.items()
        if (text := _text(name, value)) is not None
    ]


#: The texts of what most values are, by their very type.
_OF_TYPE: dict[type, Callable[[Any], bytes | None]] = {
    type(None): lambda _: None,
    str: str.encode,
    bytes: bytes,
    bool: lambda value: b"true" if value else b"false",
    int: lambda value: repr(value).encode(),
    float: lambda value: repr(value).encode(),
    Decimal: lambda value: str(value).encode(),
}


def _text(name: object, value: object) -> bytes | None:
    to_text = _OF_TYPE.get(type(value))
    if to_text is not None:
        return to_text(value)
    match builtin(value):
        case None:
            return None
        case str(text):
            return text.encode()
        case bytes(content):
            return content
        case bool(truth):
            return b"true" if truth else b"false"
        case int() | float() as number:
            return repr(number).encode()
        case Decimal() as number:
            return str(number).encode()
        case date() | time() as moment:
            return moment.isoformat().encode()
    msg = (
        f"the field {name!r} has a {type(value).__name__}, for which there is no one text; make it "
        "a str, as by json.dumps"
    )
    raise TypeError(msg)
