"""What a producer is given, as an entry's fields."""

from collections.abc import Callable, Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any, TypeAlias

from redfloe._checks import as_key
from redfloe._values import builtin

#: Values are str, bytes, bool, int, float, Decimal, datetime, date, time or None, and in a JSON
#: payload lists and mappings. A type checker infers `object` for a dict of several, hence Any.
Fields: TypeAlias = Mapping[str, Any] | Mapping[bytes, Any]


def as_pairs(fields: object) -> list[tuple[bytes, bytes]]:
    """Give the names and texts of an entry's fields; None is left out."""
    if not isinstance(fields, Mapping):
        msg = f"fields must be a mapping of names to values, not {type(fields).__name__}"
        raise TypeError(msg)
    pairs = []
    for name, value in fields.items():
        to_text = _OF_TYPE.get(type(value))
        text = _text(name, value) if to_text is None else to_text(value)
        if text is not None:
            key = name.encode() if type(name) is str else as_key(name, "a field's name")
            pairs.append((key, text))
    return pairs


#: The texts of what most values are, by their very type; made without Python code where possible.
_OF_TYPE: dict[type, Callable[[Any], bytes | None]] = {
    type(None): {None: None}.__getitem__,
    str: str.encode,
    bytes: bytes,
    bool: (b"false", b"true").__getitem__,
    int: b"%a".__mod__,  # the repr
    float: b"%a".__mod__,
    Decimal: lambda value: str(value).encode(),
}


def _text(name: object, value: object) -> bytes | None:
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
