"""Objects with declared attributes in a processor's state: what comes back, and what is refused."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pydantic
import pytest

from redfloe import DecodeError
from redfloe._processing.models import State
from redfloe._processing.state import ProcessorState

if TYPE_CHECKING:
    from fractions import Fraction


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int = 0


@dataclass
class Circle:
    x: int = 0


def commit(state: ProcessorState) -> ProcessorState:
    """Save the state, and give it as another process finds it."""
    sets, _ = state.changes()
    state.commit()
    return ProcessorState(sets)


def again(value: Any) -> Any:
    """Give an object as another process finds it."""
    state = ProcessorState()
    state["it"] = value
    sets, _ = state.changes()
    read = ProcessorState(sets)
    made = read.model(type(value), "it")
    assert read.changes() == ([], [])
    return made


class Order(pydantic.BaseModel):
    order_id: int = pydantic.Field(0, alias="orderId")
    shop: str = pydantic.Field("", validation_alias=pydantic.AliasPath("of", "shop"))
    lines: list[Line] = []


class Line(pydantic.BaseModel):
    sku: str = pydantic.Field("", alias="SKU")


Order.model_rebuild()


@pydantic.dataclasses.dataclass
class Aliased:
    count: int = pydantic.Field(0, alias="n")


def test_attributes_with_an_alias_come_back() -> None:
    order = Order.model_validate({"orderId": 5, "of": {"shop": "ulm"}, "lines": [{"SKU": "a"}]})
    assert again(order) == order
    assert (again(order).order_id, again(order).shop, again(order).lines[0].sku) == (5, "ulm", "a")
    assert again(Aliased(n=7)).count == 7


class Open(pydantic.BaseModel, extra="allow"):
    count: int = 0


def test_extra_attributes_come_back() -> None:
    model = Open.model_validate({"count": 1, "more": [1, 2], "name": "x"})
    assert again(model).model_extra == {"more": [1, 2], "name": "x"}
    state = ProcessorState()
    state.bind(bound := Open.model_validate({"more": 1}), "it")
    bound.more = 2  # type: ignore[attr-defined]  # an extra one
    bound.later = 3  # type: ignore[attr-defined]
    state.rollback()
    assert bound.model_extra == {"more": 1}
    bound.more = Color.RED  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"the attribute more is .*RED.*store plain values"):
        state.changes()


@dataclass
class Unresolved:
    color: Color = Color.RED
    part: Fraction | None = None


def test_annotations_that_cannot_be_resolved_are_refused() -> None:
    """One of them would leave all attributes as they are in JSON."""
    state = ProcessorState()
    state["it"] = Unresolved()
    with pytest.raises(TypeError, match=r"'it' cannot be saved.*'Fraction'.*at run time"):
        state.changes()
    saved = b'{"format":1,"model":"Unresolved","version":1,"value":{"color":"blue"}}'
    with pytest.raises(TypeError, match=r"Unresolved cannot be resolved.*at run time"):
        ProcessorState([(b"it", saved)]).model(Unresolved, "it")


@dataclass
class Vague:
    anything: Any = None
    thing: object = None
    items: list = field(default_factory=list)  # type: ignore[type-arg]  # what is tested
    pairs: dict = field(default_factory=dict)  # type: ignore[type-arg]
    some: list[Color] = field(default_factory=list)
    text: Color | str = ""
    either: list[Color] | list[str] = field(default_factory=list)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("anything", Color.RED),
        ("anything", [{"a": Point()}]),
        ("thing", Point()),
        ("items", [Color.RED]),
        ("items", [[Point()]]),
        ("pairs", {"a": Color.RED}),
        ("pairs", {Color.RED: 1}),
        ("some", [Point()]),
        ("text", Color.RED),
        ("either", ["red"]),
    ],
)
def test_what_would_come_back_as_another_is_refused(name: str, value: Any) -> None:
    state = ProcessorState()
    state["it"] = Vague(**{name: value})
    with pytest.raises(TypeError, match=f"'it' cannot be saved: the attribute {name} is "):
        state.changes()


def test_what_annotations_tell_comes_back() -> None:
    vague = Vague(
        anything={"a": [1, (2,)]}, thing=b"x", items=[1, {2}], pairs={1: "a"},
        some=[Color.RED, Color.BLUE], text="red", either=[Color.BLUE],
    )  # fmt: skip
    assert again(vague) == vague
    assert again(vague).text == "red"


class Shape(State):
    size: float | int = 0
    sizes: list[float | int] = []  # noqa: RUF012  # each object has a copy
    maybe: int | None = None
    kind: Literal[Color.RED, "red", 1] = "red"
    only: Literal[Color.BLUE] = Color.BLUE
    at: Point | None = None


def test_values_of_unions_and_literals_come_back() -> None:
    shape = Shape(size=2, sizes=[1, 2.0, 3], maybe=4, kind=1, at=Point(7))
    back = again(shape)
    assert back == shape
    assert repr(back) == repr(shape)
    assert again(Shape(size=2.0)).size.hex() == (2.0).hex()
    assert again(Shape()).only is Color.BLUE


@pytest.mark.parametrize("value", ['"green"', "true", "1.0", "null"])
def test_what_is_no_literal_is_named(value: str) -> None:
    saved = f'{{"format":1,"model":"Shape","version":1,"value":{{"kind":{value}}}}}'
    with pytest.raises(DecodeError, match="the attribute kind is"):
        ProcessorState([(b"Shape", saved.encode())]).model(Shape)


@dataclass
class Several:
    shape: Point | Circle | None = None


@dataclass
class SeveralWithin:
    shapes: list[Point] | list[Circle] = field(default_factory=list)


@pytest.mark.parametrize("value", [Several(), Several(Circle(1)), SeveralWithin([Point()])])
def test_unions_of_several_classes_are_refused(value: Any) -> None:
    """What is saved does not say which one it was: the first would come back."""
    state = ProcessorState()
    state["it"] = value
    with pytest.raises(TypeError, match="does not say which of these classes"):
        state.changes()


class Loose(pydantic.BaseModel):
    kinds: ClassVar[int] = 2
    anything: Any = None
    shape: Point | Circle | None = None
    color: Color | None = None


def test_pydantic_models_are_looked_at_as_well() -> None:
    assert again(Loose(color=Color.RED)) == Loose(color=Color.RED)
    for model in (Loose(anything=Color.RED), Loose(anything=Point()), Loose(shape=Circle())):
        with pytest.raises(TypeError, match="would come back as something else"):
            again(model)


def written(**attributes: Any) -> ProcessorState:
    """Give the state of a class Counter, version 1, with these attributes."""
    kind = make_dataclass("Counter", [(name, Any) for name in attributes])
    state = ProcessorState()
    state["Counter"] = kind(**attributes)
    return commit(state)


class TestChangedAttributes:
    """What killed the thread of a peer of ours without a word."""

    def test_a_new_one_has_its_default(self) -> None:
        class Counter(State):
            count: int = 0
            since: str = "2024"

        state = written(count=5)
        assert state.model(Counter) == Counter(5, "2024")
        assert len(state.changes()[0]) == 1

    def test_one_that_is_gone_is_named(self) -> None:
        class Counter(State):
            total: int = 0

        with pytest.raises(
            DecodeError, match=r"'Counter'.*attribute count, which Counter does not"
        ):
            written(count=5).model(Counter)

    def test_one_without_a_default_is_named(self) -> None:
        class Counter(State):
            count: int
            total: int

        with pytest.raises(DecodeError, match=r"lacks the attribute total.*define migrate"):
            written(count=5).model(Counter)

    @pytest.mark.parametrize("value", ["5", 5.0, None, True, [5]])
    def test_one_of_another_type_is_named(self, value: Any) -> None:
        class Counter(State):
            count: int = 0

        with pytest.raises(DecodeError, match=r"the attribute count is .*declares int; raise"):
            written(count=value).model(Counter)

    def test_a_version_migrates(self) -> None:
        class Counter(State):
            version = 3
            total: int = 0

            @classmethod
            def migrate(cls, old: dict[str, Any], version: int) -> dict[str, Any]:
                return {"total": old["count"] * version}

        state = written(count=5)
        assert state.model(Counter) == Counter(total=5)
        assert b'"version":3,"value":{"total":5}' in state.changes()[0][0][1]
        state = commit(state)
        assert state.model(Counter) == Counter(total=5)
        assert state.changes() == ([], [])

    def test_a_version_without_migrate_is_an_error(self) -> None:
        class Counter(State):
            version = 2
            count: int = 0

        with pytest.raises(DecodeError, match=r"version 1 of Counter.*this is version 2.*define"):
            written(count=5).model(Counter)

    def test_what_a_newer_one_has_written_is_an_error(self) -> None:
        class Counter(State):
            version = 2
            count: int = 0

        state = ProcessorState()
        state.model(Counter)
        state = commit(state)
        Counter.version = 1
        with pytest.raises(DecodeError, match="run the newer code"):
            state.model(Counter)

    def test_migrate_must_give_a_dict(self) -> None:
        class Counter(State):
            version = 2
            count: int = 0

            @classmethod
            def migrate(cls, old: dict[str, Any], version: int) -> dict[str, Any]:
                return None  # type: ignore[return-value]  # what is tested

        with pytest.raises(TypeError, match="migrate gave None"):
            written(count=5).model(Counter)

    def test_a_plain_dict_migrates_from_version_0(self) -> None:
        class Counter(State):
            count: int = 0

            @classmethod
            def migrate(cls, old: dict[str, Any], version: int) -> dict[str, Any]:
                return {"count": old["n"] + version}

        state = ProcessorState()
        state["Counter"] = {"n": 5}
        assert commit(state).model(Counter) == Counter(5)
