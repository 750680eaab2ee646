"""What goes into a stored task comes out of it as what it was."""

from __future__ import annotations

import functools
import inspect
import json
import math
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_otel.errors import TaskArgumentError
from taskflow_otel.model.equality import equal
from taskflow_otel.model.payload import Codec, readable_arguments
from tests.model.things import (
    BERLIN,
    Colour,
    Line,
    Order,
    lines,
    round_trip,
    untyped,
    zones,
)


def test_a_model_remembers_which_fields_were_set() -> None:
    patch = Order(placed=datetime(2026, 1, 1), id=UUID(int=1))
    assert round_trip(Order, patch).model_dump(exclude_unset=True, exclude={"size"}) == {
        "placed": patch.placed,
        "id": patch.id,
    }


def test_a_default_that_differs_each_time_is_stored() -> None:
    order = Order(placed=datetime(2026, 1, 1))
    assert round_trip(Order, order).id == order.id


def test_defaults_are_not_stored() -> None:
    def task(a: int, b: Colour = Colour.RED, *, c: int = 3) -> None: ...

    assert json.loads(Codec(task).encode((1,), {})) == {"v": 1, "names": ["a"], "args": [1], "kwargs": {}}


def test_the_payload_is_a_snapshot() -> None:
    codec = Codec(untyped)
    value = [1]
    payload = codec.encode((value,), {})
    value.append(2)
    assert codec.decode(payload) == (([1],), {})


def test_the_payload_is_ascii_json_whatever_is_in_it() -> None:
    payload = Codec(untyped).encode(("é\x00\ud800", math.nan), {"ü": math.inf})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert payload.isascii()
    assert json.loads(payload, parse_constant=refuse)["v"] == 1


def test_the_scalar_path_writes_what_json_would() -> None:
    values = ('a"b\\\n', -5, 1.5, 1e300, True, False, None)
    payload = Codec(untyped).encode(values, {"x y": 1, "z": None})
    expected = {"v": 1, "names": ["value"], "args": list(values), "kwargs": {"x y": 1, "z": None}}
    assert payload == json.dumps(expected, separators=(",", ":"))


class Sender:
    def send(self, colour: Colour) -> None: ...

    def __call__(self, colour: Colour) -> None: ...


def send(prefix: str, colour: Colour) -> None: ...


@functools.wraps(send)
def wrapped(*args: Any, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (Sender().send, (Colour.RED,)),
        (Sender(), (Colour.RED,)),
        (functools.partial(send, "x"), (Colour.RED,)),
        (wrapped, ("x", Colour.RED)),
    ],
    ids=["method", "callable object", "partial", "decorated"],
)
def test_any_callable_has_its_annotations_found(func: Any, args: tuple[Any, ...]) -> None:
    codec = Codec(func)
    assert codec.decode(codec.encode(args, {})) == (args, {})


def test_a_function_that_does_not_tell_its_parameters_takes_standard_values() -> None:
    codec = Codec(dict.update)
    assert codec.decode(codec.encode(({}, 1), {"x": (1,)})) == (({}, 1), {"x": (1,)})


def test_people_can_read_a_payload_without_the_function() -> None:
    def task(*values: Any, line: Line, colour: Colour) -> None: ...

    moment = datetime(2026, 1, 1, tzinfo=BERLIN)
    args = (UUID(int=0), (1, b"x"), {1: {2}}, moment, timedelta(seconds=90), math.nan)
    payload = Codec(task).encode(args, {"line": Line(UUID(int=1), Decimal("1.10")), "colour": Colour.BLUE})
    shown_args, shown_kwargs = readable_arguments(payload)
    assert shown_args == [str(UUID(int=0)), [1, "eA=="], {"1": [2]}, str(moment), "0:01:30", "nan"]
    assert shown_kwargs["colour"] == "BLUE"
    assert shown_kwargs["line"]["price"] == "1.10"
    assert json.loads(json.dumps(shown_kwargs, allow_nan=False)) == shown_kwargs


orders = st.builds(
    Order,
    id=st.uuids(),
    placed=st.datetimes(timezones=zones),
    lines=st.lists(lines, max_size=3).map(tuple),
    raw=st.binary(),
    weight=st.floats(),
    colour=st.sampled_from(Colour),
)


def takes_orders(order: Order, *orders: Order | Line, **named: dict[Colour, list[Order]]) -> None: ...


ORDERS = Codec(takes_orders)


@given(order=orders, more=st.lists(orders | lines, max_size=2), named=st.lists(orders, max_size=2))
def test_every_nesting_of_models_and_dataclasses_comes_back_identical(
    order: Order, more: list[Order | Line], named: list[Order]
) -> None:
    args, kwargs = ORDERS.decode(ORDERS.encode((order, *more), {"x": {Colour.RED: named}}))
    assert equal((order, *more), args, strict=True)
    assert equal({"x": {Colour.RED: named}}, kwargs, strict=True)


def test_parameters_may_change_places_while_tasks_wait() -> None:
    def before(a: int, b: str, /, c: float, *, d: bool = False) -> None: ...

    def after(b: str, c: float, *, d: bool = False, a: int) -> None: ...

    def with_more(new: int = 0, *, a: int, b: str, c: float, d: bool = False) -> None: ...

    payload = Codec(before).encode((1, "x", 2.5), {"d": True})
    assert Codec(after).decode(payload) == (("x", 2.5), {"a": 1, "d": True})
    assert Codec(with_more).decode(payload) == ((), {"a": 1, "b": "x", "c": 2.5, "d": True})


def test_a_payload_of_an_earlier_version_is_read_by_position() -> None:
    def task(a: int, b: str, *rest: float) -> None: ...

    assert Codec(task).decode('{"v":1,"args":[1,"x",2.5],"kwargs":{}}') == ((1, "x", 2.5), {})
    with pytest.raises(TaskArgumentError, match=r"'a' of .* is of type str"):
        Codec(task).decode('{"v":1,"args":["x",1],"kwargs":{}}')


@pytest.mark.parametrize(
    "after",
    [
        lambda: None,
        lambda a: None,
        lambda a, c: None,
        lambda a, b, /: None,
        lambda first, a, b, *rest: None,
        lambda *rest: None,
    ],
)
def test_a_parameter_that_is_gone_is_an_error_and_no_wrong_run(after: Any) -> None:
    def before(a: int, b: str, *rest: float) -> None: ...

    payload = Codec(before).encode((1, "x", 2.5), {})
    with pytest.raises(TaskArgumentError, match="The function has changed"):
        Codec(after).decode(payload)


@given(names=st.permutations(["a", "b", "c", "d"]), given_by_position=st.integers(0, 4), keyword_only=st.integers(0, 4))
def test_whatever_order_the_parameters_get_each_value_reaches_its_own(
    names: list[str], given_by_position: int, keyword_only: int
) -> None:
    values = {"a": 1, "b": "two", "c": 3.5, "d": None}

    def before(a: int, b: str, c: float, d: None) -> None: ...

    def after(**values: object) -> None: ...

    kinds = inspect.Parameter
    after.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # as decorators set it
        [
            kinds(name, kinds.KEYWORD_ONLY if index >= keyword_only else kinds.POSITIONAL_OR_KEYWORD)
            for index, name in enumerate(names)
        ]
    )
    by_position = dict(list(values.items())[:given_by_position])
    by_name = dict(list(values.items())[given_by_position:])
    codec = Codec(after)
    args, kwargs = codec.decode(Codec(before).encode(tuple(by_position.values()), by_name))
    assert dict(inspect.signature(after).bind(*args, **kwargs).arguments) == values


def takes_many(
    a: int, /, b: str = "", *rest: int, colour: Colour | None = None, plain: Any = None, **more: int
) -> None:
    """Take parameters of each kind."""


def test_arguments_are_revised_by_name_and_the_others_stay_exactly_as_they_were() -> None:
    codec = Codec(takes_many)
    before = codec.encode((1, "b", 2, 3), {"plain": Decimal("1.50"), "x": 4})
    after = codec.revise(before, {"a": 9, "colour": Colour.RED.value, "y": 5})
    assert codec.decode(after) == (
        (9, "b", 2, 3),
        {"plain": Decimal("1.50"), "x": 4, "colour": Colour.RED, "y": 5},
    )
    assert codec.decode(codec.revise(codec.encode((1,), {}), {"b": "c"})) == ((1,), {"b": "c"})
    # What the annotation does not name is taken as it is.
    assert codec.decode(codec.revise(before, {"plain": ["a", 1]}))[1]["plain"] == ["a", 1]
    for wrong in ({"a": "9"}, {"colour": "no colour"}, {"y": "five"}, {"b": None}):
        with pytest.raises(TaskArgumentError, match=f"'{next(iter(wrong))}'"):
            codec.revise(before, wrong)


def test_a_form_shows_each_argument_as_the_json_that_revises_it() -> None:
    codec = Codec(takes_many)
    payload = codec.encode((1, "b", 2), {"colour": Colour.RED, "plain": Decimal("1.50"), "x": 4})
    form = {one.name: (one.given, one.value) for one in codec.form(payload)}
    assert form == {
        "a": (True, 1),
        "b": (True, "b"),
        "colour": (True, Colour.RED.value),
        "plain": (True, "1.50"),
        "x": (True, 4),
    }
    assert codec.revise(payload, {"a": 1, "b": "b", "colour": form["colour"][1], "x": 4}) == payload
    assert [(one.name, one.given) for one in codec.form(None)] == [
        ("a", False), ("b", False), ("colour", False), ("plain", False)
    ]  # fmt: skip
    assert "1.50" not in repr(codec.form(payload))
