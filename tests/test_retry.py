"""`Retry`: what becomes of a batch whose handler raises, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redfloe._consuming.retry import Call, Failed, Raise, Retry, Wait


@dataclass(frozen=True)
class Entries:
    """A batch that can be halved."""

    numbers: list[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def halves(self) -> tuple[Entries, Entries]:
        middle = len(self) // 2
        return Entries(self.numbers[:middle]), Entries(self.numbers[middle:])


class BadError(Exception):
    pass


class FatalError(Exception):
    pass


@dataclass
class Handler:
    """Fails for some entries always, and for some calls whatever they hold."""

    bad: set[int]
    moody: list[bool] = field(default_factory=list)
    handled: list[int] = field(default_factory=list)
    calls: list[list[int]] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def drive(self, retry: Retry, batch: Entries, *, may_fail: bool = True) -> None:
        steps = retry.steps(batch, may_fail=may_fail)
        raised: Exception | None = None
        while True:
            try:
                step = steps.send(raised)
            except StopIteration:
                return
            raised = None
            match step:
                case Call(part):
                    self.calls.append(part.numbers)
                    raised = self.handle(part)
                case Wait(seconds):
                    self.waits.append(seconds)
                case Raise(error):
                    raise error
                case Failed(part, reason):
                    self.failed += part.numbers
                    self.reasons.append(reason)

    def handle(self, part: Entries) -> Exception | None:
        moody = self.moody.pop() if self.moody else False
        bad = self.bad & {*part.numbers}
        if bad or moody:
            return BadError(f"not {min(bad, default=0)}")
        self.handled += part.numbers
        return None


def retry(attempts: int = 1, on_exception: Any = None, **delays: float) -> Retry:
    options = {"base_delay": 0.1, "max_delay": 10.0, **delays}
    return Retry(attempts, options["base_delay"], options["max_delay"], on_exception)


@given(
    size=st.integers(1, 70),
    bad=st.sets(st.integers(0, 69)),
    moody=st.lists(st.booleans(), max_size=40),
    attempts=st.integers(1, 4),
    policy=st.sampled_from(["retry", "fail", None]),
)
def test_each_entry_is_handled_or_failed_exactly_once(
    size: int, bad: set[int], moody: list[bool], attempts: int, policy: str | None
) -> None:
    numbers = [*range(size)]
    handler = Handler(bad, moody)
    moods = sum(moody)
    handler.drive(retry(attempts, None if policy is None else {BadError: policy}), Entries(numbers))
    assert sorted(handler.handled + handler.failed) == numbers
    # In order, the one as well as the other.
    assert handler.handled == sorted(handler.handled)
    assert handler.failed == sorted(handler.failed)
    # A good entry fails by a mood alone, a bad one always.
    assert bad & {*numbers} <= {*handler.failed}
    if not moods:
        assert {*handler.failed} == bad & {*numbers}
    assert len(handler.waits) <= attempts - 1
    if policy == "fail":
        assert handler.waits == []


@given(size=st.integers(1, 70), bad=st.integers(0, 69), attempts=st.integers(1, 4))
def test_where_nothing_may_fail_the_exception_is_raised(size: int, bad: int, attempts: int) -> None:
    handler = Handler({bad})
    batch = Entries([*range(size)])
    if bad < size:
        with pytest.raises(BadError, match=f"not {bad}"):
            handler.drive(retry(attempts), batch, may_fail=False)
        assert handler.calls == [batch.numbers] * attempts
        assert handler.handled == []
    else:
        handler.drive(retry(attempts), batch, may_fail=False)
        assert handler.handled == batch.numbers
    assert handler.failed == []


@given(size=st.integers(1, 1_000))
def test_a_bad_entry_is_found_in_few_calls(size: int) -> None:
    handler = Handler({size // 3})
    handler.drive(retry(3), Entries([*range(size)]))
    assert handler.failed == [size // 3]
    assert len(handler.calls) <= 3 + 2 * size.bit_length()


@given(
    attempts=st.integers(2, 1_100),
    base=st.just(0.0) | st.floats(1e-6, 1e3),
    most=st.floats(0, 1e3),
)
def test_pauses_grow_up_to_the_longest(attempts: int, base: float, most: float) -> None:
    handler = Handler({0})
    handler.drive(retry(attempts, base_delay=base, max_delay=most), Entries([0]))
    assert len(handler.calls) == attempts
    assert len(handler.waits) == attempts - 1
    for attempt, seconds in enumerate(handler.waits):
        longest = min(most, Fraction(base) * 2**attempt)
        assert longest / 2 <= Fraction(seconds) <= longest


def test_pauses_have_jitter() -> None:
    waits = set()
    for _ in range(20):
        handler = Handler({0})
        handler.drive(retry(2), Entries([0]))
        waits.update(handler.waits)
    assert len(waits) > 10


def test_the_first_class_that_fits_counts() -> None:
    class WorseError(BadError):
        pass

    class Never(Handler):
        def handle(self, part: Entries) -> Exception | None:
            return WorseError("x")

    handler = Never(set())
    with pytest.raises(WorseError):
        handler.drive(retry(3, {WorseError: "raise", BadError: "retry"}), Entries([1]))
    assert len(handler.calls) == 1
    handler = Never(set())
    handler.drive(
        retry(3, {FatalError: "raise", BadError: "fail", WorseError: "raise"}), Entries([1])
    )
    assert (len(handler.calls), handler.failed) == (1, [1])
    assert handler.reasons == ["WorseError: x"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((0, 0.1, 1.0, None), ValueError),
        ((True, 0.1, 1.0, None), TypeError),
        ((1.5, 0.1, 1.0, None), TypeError),
        ((1, True, 1.0, None), TypeError),
        ((1, 0.1, False, None), TypeError),
        ((1, "1", 1.0, None), TypeError),
        ((1, 0.1, float("nan"), None), ValueError),
        ((1, -0.1, 1.0, None), ValueError),
        ((1, 0.1, -1.0, None), ValueError),
        ((1, 0.1, 1.0, {BadError: "ignore"}), ValueError),
        ((1, 0.1, 1.0, {"Bad": "retry"}), TypeError),
        ((1, 0.1, 1.0, {int: "retry"}), TypeError),
        ((1, 0.1, 1.0, {KeyboardInterrupt: "retry"}), TypeError),
    ],
    ids=str,
)
def test_bad_arguments(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Retry(*arguments)
