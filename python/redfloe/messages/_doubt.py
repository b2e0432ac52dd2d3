"""Fields whose values may be read as others, or not at all: each event is looked at before."""

from __future__ import annotations

import enum
import types
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import polars as pl
import pydantic

from redfloe._writing.fields import as_pairs
from redfloe.messages._schema_of import (
    ModelField,
    _stripped,
    fields_of,
    is_model,
    is_struct,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redfloe.messages._kinds import Kind

#: What has another value in an event than in its text or document.
_ENCODED = (pydantic.EncodedBytes, pydantic.EncodedStr, pydantic.Json)


@dataclass(frozen=True, slots=True)
class Misfit:
    """What an entry is that is no event of its kind."""

    reason: str


def doubtful(model: type) -> tuple[ModelField, ...]:
    """Give the fields of a model whose types do not make sure that they are read as written."""
    if _is_array(model):
        return fields_of(model)
    infos = getattr(model, "__pydantic_fields__", None) or {}
    encoded = {
        name for name, info in infos.items() if any(_is_encoded(one) for one in info.metadata)
    }
    return tuple(
        field for field in fields_of(model) if field.attribute in encoded or _is_doubtful(field)
    )


def _is_doubtful(field: ModelField) -> bool:
    bare, metadata, _ = _stripped(field.annotation)
    if any(map(_is_encoded, metadata)) or _in_doubt(bare, ()):
        return True
    if get_origin(bare) in (Union, types.UnionType):
        return True  # which member a text is
    if get_origin(bare) is Literal:
        values = get_args(bare)
    elif isinstance(bare, type) and issubclass(bare, enum.Enum):
        values = tuple(member.value for member in bare)
    else:
        return False
    texts = {str(value).lower() for value in values}
    return "" in texts or len(texts) < len(values)


def _in_doubt(annotation: Any, outer: tuple[type, ...]) -> bool:
    """Whether it is, or holds, what neither texts nor JSON say as it is."""
    bare, metadata, _ = _stripped(annotation)
    if any(map(_is_encoded, metadata)) or _is_encoded(bare):
        return True
    if any(_in_doubt(one, outer) for one in get_args(bare) if get_origin(bare) is not Literal):
        return True
    if not isinstance(bare, type) or bare in outer:
        return False
    if issubclass(bare, enum.Flag):
        return True
    if "msgspec" in bare.__module__ and bare.__name__ == "Raw":
        return True
    if not is_model(bare):
        return False
    outer = (*outer, bare)
    infos = getattr(bare, "__pydantic_fields__", None) or {}
    if any(_is_encoded(one) for info in infos.values() for one in info.metadata):
        return True
    return any(_in_doubt(field.annotation, outer) for field in fields_of(bare))


def _is_encoded(given: Any) -> bool:
    return isinstance(given, _ENCODED) or given in _ENCODED


def _is_array(model: Any) -> bool:
    return is_struct(model) and bool(model.__struct_config__.array_like)


def is_same(one: Any, other: Any) -> bool:
    """Say whether a value is that of another event, also where its class compares by identity."""
    if one is other:
        return True
    try:
        if one == other or (one != one and other != other):  # noqa: PLR0124 - NaN
            return True
    except Exception:  # noqa: BLE001 - it is the model's, and may do anything
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    if type(one) is type(other) and is_model(type(one)):
        names = [field.attribute for field in fields_of(type(one))]
        return all(is_same(getattr(one, name), getattr(other, name)) for name in names)
    return False


def frame_of(values: Mapping[str, Any], dtypes: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Give what is written of an event as it is read."""
    texts = dict(as_pairs(dict(values)))
    return pl.DataFrame(
        [
            pl.Series(name, [texts.get(name.encode())], dtype=pl.Binary).cast(dtype)
            for name, dtype in dtypes.items()
        ]
    )


def refuse_another(kind: Kind, event: Any, read: Any) -> None:
    """Refuse an event that is read as another one, or as none."""
    if isinstance(read, Misfit):
        msg = f"this {kind.name} would not be read again: what is written {read.reason}"
        raise ValueError(msg)
    if kind.writes_itself:
        return  # as what it wants
    for field in kind.doubtful:
        get = attrgetter(field.attribute)
        if not is_same(get(event), get(read)):
            msg = (
                f"{kind.name}.{field.attribute} is {get(event)!r:.100}, and would be read as "
                f"{get(read)!r:.100}: give it a type of which a text is one value only"
            )
            raise ValueError(msg)
