"""State with declared attributes: dataclasses, pydantic models, and `State`."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections import Counter
from contextlib import suppress
from copy import deepcopy
from enum import Enum
from functools import lru_cache, partial
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
    change their types, raise `version`, and convert in `migrate` what an older version has written.
    A new attribute with a default needs neither.

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


def _values(model: Any) -> dict[str, object]:
    """Give a model's attributes by name, those of pydantic's ``extra="allow"`` too."""
    kind = type(model)
    extra = model.model_extra if _allows_extra(kind) else {}
    return {name: getattr(model, name) for name in _names(kind)} | extra


def _resolved(kind: Any) -> dict[str, Any]:
    """Give what a class declares its attributes to be.

    Raises
    ------
    TypeError
        A name is not known at run time, or a declaration does not say what an attribute is.
    """
    if _is_pydantic(kind):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    try:
        known = get_type_hints(kind)
    except (NameError, AttributeError, TypeError) as error:
        msg = (
            f"the annotations of {kind.__name__} cannot be resolved: {error}; import their names "
            "at run time, not for type checkers only, and define the class in a module"
        )
        raise TypeError(msg) from error
    declared = {name: known[name] for name in _names(kind)}
    for name, annotation in declared.items():
        _check_unions(annotation, f"{kind.__name__}.{name}")
    return declared


#: It is asked for at each commit.
_annotations = lru_cache(maxsize=256)(_resolved)


def _check_unions(annotation: Any, name: str) -> None:
    inner = [] if get_origin(annotation) is Literal else get_args(annotation)
    if _is_union(annotation) and sum(map(_holds_model, inner)) > 1:
        msg = (
            f"{name} is declared as {annotation}, and what is saved does not say which of these "
            "classes it was; use one class, with an attribute that says which kind it is"
        )
        raise TypeError(msg)
    for one in inner:
        _check_unions(one, name)


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _is_ambiguous(annotation: Any) -> bool:
    """Say whether a value may fit in several ways."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return False
    several = _is_union(annotation) and len([one for one in inner if one is not type(None)]) > 1
    return several or any(map(_is_ambiguous, inner))


def _holds_model(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return False
    return is_model(annotation) or any(map(_holds_model, get_args(annotation)))


def attributes(model: object) -> dict[str, object]:
    """Give what is written for a model: its attributes by name.

    Raises
    ------
    TypeError
        An attribute would come back as something else, since its annotation does not say what it
        is, or the annotations cannot be resolved.
    """
    kind: Any = type(model)
    held = _values(model)
    annotations = _annotations(kind)
    written = {name: _written(value) for name, value in held.items()}
    doubtful = [
        name
        for name, (_, classes) in written.items()
        if classes or _is_ambiguous(annotations.get(name, Any))
    ]
    encoded = {name: value for name, (value, _) in written.items()}
    if doubtful:
        back = _back(kind, encoded, doubtful)
        for name in doubtful:
            if name not in back or _written(back[name]) != written[name]:
                msg = (
                    f"the attribute {name} is {held[name]!r:.60}, and would come back as something "
                    f"else, since its annotation in {kind.__name__} does not say what it is; "
                    "declare its class, or store plain values, such as an Enum's .value"
                )
                raise TypeError(msg)
    return encoded


def _written(value: object) -> tuple[object, Counter[type]]:
    """Give what is written for an attribute, and the classes within that only annotations tell."""
    classes: Counter[type] = Counter()

    def inner(value: object) -> object:
        classes[type(value)] += 1
        if isinstance(value, Enum):
            return values.encode(value.value)
        if is_model(type(value)):
            return attributes(value)
        return values.encode(value)

    return values.encode(value, inner), classes


def _back(kind: Any, encoded: dict[str, object], names: list[str]) -> dict[str, object]:
    """Give attributes as they would be read; some are missing where they could not be."""
    stored = values.decode(values.dumps(encoded))
    if _is_pydantic(kind):
        try:
            validated = _validated(kind, stored)
        except DecodeError:
            return {}
        return _values(validated)
    back, annotations = {}, _annotations(kind)
    for name in names:
        with suppress(DecodeError):
            back[name] = _fit(annotations[name], stored[name], name, kind.__name__)
    return back


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
    if _allows_extra(type(model)):
        object.__setattr__(model, "__pydantic_extra__", getattr(fresh, "model_extra", None))


def _build(kind: Any, stored: dict[str, Any], path: str) -> Any:
    names = _names(kind)
    unknown = [name for name in stored if name not in names]
    if unknown and not _allows_extra(kind):
        msg = (
            f"it has the attribute {path}{unknown[0]}, which {kind.__name__} does not declare; "
            "raise the class's version and define migrate, or declare the attribute again"
        )
        raise DecodeError(msg)
    if _is_pydantic(kind):
        return _validated(kind, stored)
    annotations = _annotations(kind)
    given: dict[str, Any] = {}
    later: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in stored:
            value = _fit(
                annotations[field.name], stored[field.name], f"{path}{field.name}", kind.__name__
            )
            (given if field.init else later)[field.name] = value
        elif field.init and not _has_default(field):
            msg = (
                f"it lacks the attribute {path}{field.name}, which {kind.__name__} declares "
                "without a default; give it one, or raise the class's version and define migrate"
            )
            raise DecodeError(msg)
    # One of pydantic's dataclasses may be made by aliases.
    is_pydantics = "__pydantic_validator__" in vars(kind)
    model = _validated(kind, given) if is_pydantics else kind(**given)
    for name, value in later.items():
        object.__setattr__(model, name, value)
    return model


def _validated(kind: Any, stored: dict[str, Any]) -> Any:
    """Have pydantic make a model of attributes by their names, which are no aliases."""
    validate = (
        kind.model_validate if _is_pydantic(kind) else kind.__pydantic_validator__.validate_python
    )
    try:
        return validate(stored, by_alias=False, by_name=True)
    except ValueError as error:
        msg = f"it does not fit {kind.__name__}: {error}"
        raise DecodeError(msg) from error


def _allows_extra(kind: Any) -> bool:
    return _is_pydantic(kind) and kind.model_config.get("extra") == "allow"


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
    if _is_union(annotation):
        # The value's own type first, and those last that make a model of it.
        for one in sorted(inner, key=lambda one: (one is not type(value), is_model(one))):
            try:
                fits, made = _try(one, value, path, owner)
            except DecodeError:
                continue
            if fits:
                return True, made
        return False, None
    if origin is Literal:
        for one in inner:
            plain = one.value if isinstance(one, Enum) else one
            if type(plain) is type(value) and plain == value:
                return True, one
        return False, None
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
