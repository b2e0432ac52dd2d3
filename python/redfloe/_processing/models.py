"""State with declared attributes: dataclasses, pydantic models, and `State`."""

from __future__ import annotations

import dataclasses
import inspect
import types
from copy import deepcopy
from enum import Enum
from functools import partial
from typing import (
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from redfloe._errors import DecodeError
from redfloe._processing import values

M = TypeVar("M")


@dataclass_transform(field_specifiers=(dataclasses.field,))
class State:
    """State with declared attributes, which a processor keeps: a dataclass that is one by itself.

    A subclass names its attributes with their types and defaults. An attribute's default may be a
    list or a dict; each object has a copy of its own. Where attributes are renamed, removed or
    change their types, raise `version`, and say in `migrate` what becomes of what an older version
    has written. A new attribute with a default needs neither.

    Attributes
    ----------
    version : int
        The version of the attributes, from 1.

    Examples
    --------
    >>> from redfloe._processing.models import State
    >>> class OrderCounter(State):
    ...     version = 2
    ...     orders: int = 0
    ...     by_shop: dict[str, int] = {}
    ...
    ...     @classmethod
    ...     def migrate(cls, old, version):
    ...         return {"orders": old["count"]}
    >>> OrderCounter()
    OrderCounter(orders=0, by_shop={})
    """

    version: ClassVar[int] = 1
    #: What the decorator leaves there.
    __dataclass_transform__: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, annotation in inspect.get_annotations(cls).items():
            if name == "version" and "ClassVar" not in str(annotation):
                msg = "version is the class's, and no attribute: write version = 2, without a type"
                raise TypeError(msg)
            default = cls.__dict__.get(name)
            if isinstance(default, list | dict | set):
                setattr(cls, name, dataclasses.field(default_factory=partial(deepcopy, default)))
        dataclasses.dataclass(cls)

    @classmethod
    def migrate(cls, old: dict[str, Any], version: int) -> dict[str, Any]:
        """Give this version's attributes for those that an older one has written.

        Parameters
        ----------
        old : dict
            The attributes by name.
        version : int
            The version that has written them, which is less than the class's.
        """
        raise NotImplementedError


#: What a class has that defines none.
_NO_MIGRATION = State.__dict__["migrate"].__func__


def is_model(kind: object) -> bool:
    """Say whether it is a class whose attributes are declared."""
    return isinstance(kind, type) and (dataclasses.is_dataclass(kind) or _is_pydantic(kind))


def _is_pydantic(kind: type) -> bool:
    return hasattr(kind, "model_fields") and hasattr(kind, "model_validate")


def version_of(kind: type) -> int:
    """Give the version that a class declares; 1 where it declares none."""
    version = None if "version" in _names(kind) else getattr(kind, "version", None)
    return version if type(version) is int else 1


def _names(kind: Any) -> list[str]:
    if _is_pydantic(kind):
        return [*kind.model_fields]
    return [field.name for field in dataclasses.fields(kind)]


def attributes(model: object) -> dict[str, object]:
    """Give what is written for a model: its attributes by name."""
    return {name: values.encode(getattr(model, name), _inner) for name in _names(type(model))}


def _inner(value: object) -> object:
    """Give what is written for a value inside a model, whose annotations say what it was."""
    if isinstance(value, Enum):
        return values.encode(value.value)
    if is_model(type(value)):
        return attributes(value)
    return values.encode(value)


def make(kind: type[M], stored: object, version: int) -> M:
    """Make a model of the attributes that a version of it has written."""
    own = version_of(kind)
    if not isinstance(stored, dict):
        msg = f"it holds no attributes, so it is no {kind.__name__}"
        raise DecodeError(msg)
    if version > own:
        msg = (
            f"version {version} of {kind.__name__} has written it, and this is version {own}; run "
            "the newer code, or delete the state"
        )
        raise DecodeError(msg)
    if version < own:
        migrate = getattr(kind, "migrate", None)
        if migrate is None or getattr(migrate, "__func__", None) is _NO_MIGRATION:
            msg = (
                f"version {version} of {kind.__name__} has written it, and this is version {own}; "
                "define a classmethod migrate(cls, old, version) that gives the new attributes"
            )
            raise DecodeError(msg)
        stored = migrate(stored, version)
        if not isinstance(stored, dict):
            msg = f"{kind.__name__}.migrate gave {stored!r}, not a dict of attributes"
            raise TypeError(msg)
    return cast("M", _build(kind, stored, ""))


def refill(model: object, fresh: object) -> None:
    """Give a model the attributes of another of its class."""
    for name in _names(type(model)):
        object.__setattr__(model, name, getattr(fresh, name))


def _build(kind: Any, stored: dict[str, Any], path: str) -> Any:
    names = _names(kind)
    if unknown := [name for name in stored if name not in names]:
        msg = (
            f"it has the attribute {path}{unknown[0]}, which {kind.__name__} does not declare; "
            "raise the class's version and define migrate, or declare the attribute again"
        )
        raise DecodeError(msg)
    if _is_pydantic(kind):
        try:
            return kind.model_validate(stored)
        except ValueError as error:
            msg = f"it does not fit {kind.__name__}: {error}"
            raise DecodeError(msg) from error
    try:
        annotations = get_type_hints(kind)
    except (NameError, TypeError):
        annotations = {}  # of names that only the class's own module knows
    given: dict[str, Any] = {}
    later: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in stored:
            annotation = annotations.get(field.name, Any)
            value = _fit(annotation, stored[field.name], f"{path}{field.name}", kind.__name__)
            (given if field.init else later)[field.name] = value
        elif field.init and not _has_default(field):
            msg = (
                f"it lacks the attribute {path}{field.name}, which {kind.__name__} declares "
                "without a default; give it one, or raise the class's version and define migrate"
            )
            raise DecodeError(msg)
    model = kind(**given)
    for name, value in later.items():
        object.__setattr__(model, name, value)
    return model


def _has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _fit(annotation: Any, value: Any, path: str, owner: str) -> Any:
    """Give a value as what its attribute declares, or refuse it."""
    fits, made = _try(annotation, value, path, owner)
    if not fits:
        declared = getattr(annotation, "__name__", None) or str(annotation)
        msg = (
            f"the attribute {path} is {value!r:.60}, and {owner} declares {declared}; raise the "
            "class's version and define migrate"
        )
        raise DecodeError(msg)
    return made


def _try(annotation: Any, value: Any, path: str, owner: str) -> tuple[bool, Any]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Union or origin is types.UnionType:
        # Those first that have nothing to make of it.
        for one in sorted(inner, key=is_model):
            try:
                fits, made = _try(one, value, path, owner)
            except DecodeError:
                continue
            if fits:
                return True, made
        return False, None
    if origin is Literal:
        return value in inner, value
    if origin in (list, set, frozenset) and inner:
        if type(value) is not origin:
            return False, None
        return True, cast("type", origin)(_fit(inner[0], item, path, owner) for item in value)
    if origin is tuple and inner:
        if type(value) is not tuple:
            return False, None
        each = [inner[0]] * len(value) if inner[1:] == (Ellipsis,) else inner
        if len(each) != len(value):
            return False, None
        return True, tuple(
            _fit(one, item, path, owner) for one, item in zip(each, value, strict=True)
        )
    if origin is dict and inner:
        if type(value) is not dict:
            return False, None
        pairs = value.items()
        return True, {
            _fit(inner[0], key, path, owner): _fit(inner[1], item, path, owner)
            for key, item in pairs
        }
    return _try_class(origin or annotation, value, path)


def _is_class(annotation: object) -> bool:
    return isinstance(annotation, type)


def _try_class(kind: Any, value: Any, path: str) -> tuple[bool, Any]:
    if kind is None or kind is type(None):
        return value is None, value
    if not _is_class(kind) or kind is object:
        return True, value  # Any, a TypeVar, and what else says nothing
    if issubclass(kind, Enum):
        try:
            return True, kind(value)
        except ValueError:
            return False, None
    if is_model(kind):
        return (True, _build(kind, value, f"{path}.")) if type(value) is dict else (False, None)
    if kind is float and type(value) is int:
        return True, float(value)
    if kind in _KNOWN:
        return type(value) is kind, value
    # A protocol or an abstract class, such as Sequence, is none that values are made of.
    return True, value


#: The types that values have when they are read.
_KNOWN = frozenset((str, int, bool, float, list, dict)) | frozenset(values.TYPES)
