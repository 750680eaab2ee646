"""One parameter of a task function, and the values that its annotation takes."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Flag, IntEnum, StrEnum
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_origin
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from taskflow_otel.errors import TaskArgumentError
from taskflow_otel.model.equality import equal
from taskflow_otel.model.payload import Codec, readable_arguments
from tests.model.things import (
    BERLIN,
    Address,
    Colour,
    Line,
    Order,
    Point,
    round_trip,
)


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    YES = "yes"


class Rights(Flag):
    READ = 1
    WRITE = 2


class Options(TypedDict, total=False):
    when: datetime
    colour: Colour


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    name: str


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Node(StrEnum):
    LEAF = "leaf"
    BRANCH = "branch"


class Leaf(BaseModel):
    kind: Literal[Node.LEAF] = Node.LEAF
    colour: Colour | str


class Branch(BaseModel):
    kind: Literal[Node.BRANCH] = Node.BRANCH
    children: list[Annotated[Leaf | Branch, Field(discriminator="kind")]] = []


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


class Numbers(RootModel[list[int]]):
    pass


ORDER = Order(
    id=UUID(int=9),
    placed=datetime(2026, 1, 1, tzinfo=BERLIN),
    lines=(Line(UUID(int=3), Decimal("9.90"), Colour.BLUE, frozenset({1, 2})),),
    shipTo=Address(street="Main St", point=Point(1, 2.5)),
    comment="fragile",  # type: ignore[call-arg]  # an alias
    raw=b"\xff",
    weight=math.nan,
)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Colour, Colour.BLUE),
        (Level, Level.LOW),
        (Word, Word.YES),
        (Rights, Rights.READ | Rights.WRITE),
        (Colour | None, Colour.RED),
        (Literal[Colour.RED, "x"], Colour.RED),
        (Colour | str, Colour.RED),
        (str | Level | Word, Word.YES),
        (list[Colour], [Colour.RED, Colour.BLUE]),
        (set[Colour], {Colour.RED, Colour.BLUE}),
        (dict[Colour, list[Level]], {Colour.RED: [Level.LOW]}),
        (dict[str, Any], {"a": UUID(int=1)}),
        (Point, Point(1, -0.0)),
        (list[Point], [Point(1), Point(2)]),
        (Options, {"when": datetime(2026, 1, 1, tzinfo=UTC), "colour": Colour.RED}),
        (Line, Line(UUID(int=1), Decimal("1.10"))),
        (tuple[Line, ...], (Line(UUID(int=1), Decimal(1)),)),
        (Order, ORDER),
        (list[Order | Address], [ORDER, Address(street="x")]),
        (Cat | Dog, Dog(kind="dog", name="Rex")),
        (Annotated[Cat | Dog, Field(discriminator="kind")], Dog(kind="dog", name="Rex")),
        (Loose, Loose.model_validate({"anything": UUID(int=5), "n": 1})),
        (Numbers, Numbers([1, 2])),
        (Path, Path("/tmp/x")),
        (PurePosixPath, PurePosixPath("a/b")),
        (IPv4Address, IPv4Address("127.0.0.1")),
        (OrderedDict[UUID, int], OrderedDict({UUID(int=2): 1, UUID(int=1): 2})),
        (deque[Colour], deque([Colour.RED])),
        (Annotated[Colour, "metadata"], Colour.RED),
    ],
    ids=lambda item: inspect.formatannotation(item) if get_origin(item) or isinstance(item, type) else "",
)
def test_an_annotated_value_comes_back_identical(annotation: Any, value: Any) -> None:
    assert equal(value, round_trip(annotation, value), strict=True)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Cat | Dog, Dog(name="Rex")),
        (Annotated[Cat | Dog, Field(discriminator="kind")], Dog(name="Rex")),
        (Leaf | Branch, Branch(children=[Branch(), Leaf(colour=Colour.RED), Leaf(colour="red")])),
    ],
    ids=["smart union", "discriminated union", "recursive union, discriminated by an enum"],
)
def test_a_member_of_a_union_comes_back_as_that_member(annotation: Any, value: Any) -> None:
    assert equal(value, round_trip(annotation, value), strict=False)


def test_star_arguments_follow_their_own_annotations() -> None:
    def task(first: int, /, *colours: Colour, level: Level, **points: Point) -> None: ...

    codec = Codec(task)
    args = (1, Colour.RED, Colour.BLUE)
    kwargs = {"level": Level.LOW, "a": Point(1), "first": Point(2), "$": Point(3)}
    assert codec.decode(codec.encode(args, kwargs)) == (args, kwargs)


def test_annotations_may_name_what_is_defined_later() -> None:
    codec = Codec(takes_a_later_type)
    assert codec.decode(codec.encode((Later(1),), {})) == ((Later(1),), {})


def takes_a_later_type(value: Later) -> None: ...


@dataclasses.dataclass
class Later:
    n: int


FITTING: list[tuple[Any, Any]] = [
    (int, True), (float, 1), (float, True), (complex, 1.5), (int | None, None), (Annotated[int, "documented"], 1),
    ("int | str", "x"), (Literal["a", 1], 1), (Colour, "red"), (Word, "yes"), (datetime, "2026-01-01"), (Any, 1),
    (object, "x"), ("NotDefined", 1), (UUID, str(UUID(int=1))), (Decimal, "1.5"), (list[int] | int, 1),
]  # fmt: skip


CHANGED: list[tuple[Any, Any]] = [
    (int, "x"), (str, 1), (str, None), (bool, 1), (int, 1.5), (int, None), (int | None, "x"), (Literal["a"], "b"),
    (Colour, "green"), (UUID, "x"), (Address, 1), (list[int], 1), (datetime, "tomorrow"), (Line, "x"),
    (Annotated[int, "documented"], "x"), ("int", "x"),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value"), FITTING)
def test_a_stored_scalar_that_fits_its_annotation_is_given_as_it_is(annotation: Any, value: Any) -> None:
    assert codec_of(annotation).decode(json.dumps({"v": 1, "args": [value], "kwargs": {}}))[0][0] is not None or (
        value is None
    )
    assert round_trip(annotation, value) == value


@pytest.mark.parametrize(("annotation", "value"), CHANGED)
def test_a_stored_scalar_that_its_annotation_no_longer_allows_is_refused(annotation: Any, value: Any) -> None:
    payload = codec_of(Any).encode((value,), {})
    by_name = codec_of(Any).encode((), {"value": value})
    for stored in (payload, by_name):
        with pytest.raises(TaskArgumentError, match="not what its annotation says") as caught:
            codec_of(annotation).decode(stored)
        assert repr(value) not in str(caught.value) or value is None
    # What the caller passed against the annotation, as Python allows, is what the function gets.
    assert round_trip(annotation, value) == value
    assert readable_arguments(codec_of(annotation).encode((value,), {})) == ([value], {})


def test_the_type_of_a_default_is_allowed_whatever_the_annotation_says() -> None:
    def task(name: str = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013  # people write it

    assert Codec(task).decode('{"v":1,"args":[null],"kwargs":{}}') == ((None,), {})


@pytest.mark.parametrize(
    ("annotation", "data", "says"),
    [
        (int, "7", "valid integer"),
        (int | None, "x", "int | None"),
        (Annotated[str, Field(max_length=2)], "abc", "at most 2"),
        (dict[str, int], {"a": "b"}, "valid integer"),
        ("NoSuchType", 1, "cannot be resolved here"),
        (Callable[[], int], 1, "callable"),
    ],
)
def test_data_of_a_person_must_be_what_the_annotation_says(annotation: Any, data: Any, says: str) -> None:
    codec = codec_of(annotation)
    with pytest.raises(TaskArgumentError, match=says):
        codec.revise(codec.encode((None,), {}), {"value": data})


@pytest.mark.parametrize(
    ("annotation", "data", "value"),
    [
        (tuple[int, ...], [1, 2], (1, 2)),
        (date, "2026-01-02", date(2026, 1, 2)),
        (Decimal, "1.50", Decimal("1.50")),
        (float, 7, 7.0),
        (object, {"a": [1]}, {"a": [1]}),
        (Colour, 2, Colour.BLUE),
    ],
)
def test_data_of_a_person_becomes_a_value_of_the_annotation(annotation: Any, data: Any, value: Any) -> None:
    codec = codec_of(annotation)
    assert codec.decode(codec.revise(codec.encode((None,), {}), {"value": data})) == ((value,), {})


def codec_of(annotation: Any) -> Codec:
    def task(value: Any) -> None: ...

    task.__annotations__["value"] = annotation
    return Codec(task)
