"""What goes into a stored task comes out of it as what it was."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
from collections import OrderedDict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple, get_origin
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel, computed_field
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from taskflow_otel.errors import TaskArgumentError
from taskflow_otel.model.equality import same
from taskflow_otel.model.payload import Codec, readable_arguments


class Colour(Enum):
    RED = "red"
    BLUE = 2


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    YES = "yes"


class Rights(Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Options(TypedDict, total=False):
    when: datetime
    colour: Colour


@dataclasses.dataclass(frozen=True)
class Line:
    sku: UUID
    price: Decimal
    colour: Colour = Colour.RED
    seen: frozenset[int] = frozenset()
    total: Decimal = dataclasses.field(init=False, compare=False, default=Decimal(0))


class Address(BaseModel):
    model_config = ConfigDict(extra="forbid")

    street: str
    point: Point | None = None


class Order(BaseModel):
    model_config = ConfigDict(strict=True)

    id: UUID = Field(default_factory=uuid4)
    placed: datetime
    lines: tuple[Line, ...] = ()
    ship_to: Address = Field(alias="shipTo", default=Address(street="-"))
    note: str | None = Field(default=None, validation_alias=AliasChoices("remark", "comment"))
    raw: bytes = b""
    weight: float = 0.0
    colour: Colour = Colour.RED

    @computed_field
    def size(self) -> int:
        return len(self.lines)


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


def untyped(value, *rest, **options):  # type: ignore[no-untyped-def]  # its having no annotations is what is tested
    return value, rest, options


def round_trip(annotation: Any, value: Any) -> Any:
    """Send one value through a function whose parameter has this annotation."""

    def task(value: Any) -> None: ...

    task.__annotations__["value"] = annotation
    codec = Codec(task)
    (positional,), none = codec.decode(codec.encode((value,), {}))
    nothing, by_name = codec.decode(codec.encode((), {"value": value}))
    assert none == {}
    assert nothing == ()
    assert same(positional, by_name["value"], strict=False)
    return positional


BERLIN = ZoneInfo("Europe/Berlin")
TWICE = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)

STANDARD: list[Any] = [
    None, True, False, 0, 1, -1, 2**63, 10**500, -(10**5000), 0.0, -0.0, 1e308, 5e-324, 0.1, math.inf, -math.inf,
    math.nan, "", "5", "a\x00b", "\ud800", "Ünïcødé 🙂", b"", b"\xff\x00", bytearray(b"\xfe"), 3 - 0j,
    complex(-0.0, math.inf), UUID(int=7), Decimal("1.00"), Decimal("-0"), Decimal("1E+500"), Decimal("NaN"),
    Decimal("sNaN"), Decimal("-Infinity"),
    date(1, 1, 1), date.max, time(23, 59, 59, 999999), time(1, tzinfo=UTC), time(1, tzinfo=BERLIN), time(1, fold=1),
    datetime.min, datetime.max, datetime(2026, 1, 1, 1, 2, 3, 4), datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-5, minutes=-30, seconds=-1))), TWICE, TWICE.replace(fold=1),
    datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN), datetime(2026, 1, 1, fold=1), timedelta.max, timedelta.min,
    timedelta(microseconds=-1), [], {}, (), set(), frozenset(), [1, [2, (3, {4})]], {"a": {"b": [None]}},
    {1: "a", 2: "b"},
    {(1, 2): {UUID(int=1)}, None: b"x"}, {"$": "uuid", "v": "no"}, [{"$": "typed", "v": {"$": 1}}],
    {"v": 1, "args": []},
    {frozenset({1, (2, 3)}), "x"}, (1, 1.0, True, "1"),
]  # fmt: skip


@pytest.mark.parametrize("value", STANDARD, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("annotation", [Any, object, int, str, UUID | None, list[str]], ids=str)
def test_a_standard_value_comes_back_identical_whatever_the_annotation_says(annotation: Any, value: Any) -> None:
    assert same(value, round_trip(annotation, value), strict=True)


@pytest.mark.parametrize("value", STANDARD, ids=lambda value: type(value).__name__)
def test_a_standard_value_needs_no_annotation(value: Any) -> None:
    codec = Codec(untyped)
    args, kwargs = codec.decode(codec.encode((value, value), {"option": value}))
    assert same((value, value), args, strict=True)
    assert same({"option": value}, kwargs, strict=True)


ORDER = Order(
    id=UUID(int=9),
    placed=datetime(2026, 1, 1, tzinfo=BERLIN),
    lines=(Line(UUID(int=3), Decimal("9.90"), Colour.BLUE, frozenset({1, 2})),),
    shipTo=Address(street="Main St", point=Point(1, 2.5)),
    comment="fragile",
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
        (Loose, Loose(anything=UUID(int=5), n=1)),
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
    assert same(value, round_trip(annotation, value), strict=True)


def test_a_model_remembers_which_fields_were_set() -> None:
    patch = Order(placed=datetime(2026, 1, 1), id=UUID(int=1))
    assert round_trip(Order, patch).model_dump(exclude_unset=True, exclude={"size"}) == {
        "placed": patch.placed,
        "id": patch.id,
    }


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
    assert same(value, round_trip(annotation, value), strict=False)


def test_a_default_that_differs_each_time_is_stored() -> None:
    order = Order(placed=datetime(2026, 1, 1))
    assert round_trip(Order, order).id == order.id


def test_a_foreign_time_zone_comes_back_as_the_same_instant_and_offset() -> None:
    class Whenever(BaseModel):
        at: datetime

    value = Whenever.model_validate_json('{"at": "2026-01-01T12:00:00+02:00"}')
    assert type(value.at.tzinfo) is not timezone
    back = round_trip(Whenever, value)
    assert back == value
    assert back.at.utcoffset() == timedelta(hours=2)


def test_star_arguments_follow_their_own_annotations() -> None:
    def task(first: int, /, *colours: Colour, level: Level, **points: Point) -> None: ...

    codec = Codec(task)
    args = (1, Colour.RED, Colour.BLUE)
    kwargs = {"level": Level.LOW, "a": Point(1), "first": Point(2), "$": Point(3)}
    assert codec.decode(codec.encode(args, kwargs)) == (args, kwargs)


def test_a_name_that_looks_like_a_tag_is_only_a_name() -> None:
    codec = Codec(untyped)
    kwargs = {"$": "uuid", "v": "x"}
    assert codec.decode(codec.encode((1,), kwargs)) == ((1,), kwargs)


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


def test_annotations_may_name_what_is_defined_later() -> None:
    codec = Codec(takes_a_later_type)
    assert codec.decode(codec.encode((Later(1),), {})) == ((Later(1),), {})


def takes_a_later_type(value: Later) -> None: ...


@dataclasses.dataclass
class Later:
    n: int


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


zones = st.sampled_from([None, UTC, BERLIN, ZoneInfo("Australia/Lord_Howe"), timezone(timedelta(minutes=-90))])
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.uuids(), st.decimals(),
    st.dates(), st.times(), st.timedeltas(), st.complex_numbers(), st.datetimes(timezones=zones, allow_imaginary=True),
    st.characters(categories=["Cs"]),
)  # fmt: skip
hashables = st.recursive(
    scalars.filter(lambda value: "nan" not in repr(value).lower()),  # NaN is no member that a set would find again
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(hashables, max_size=4),
        st.dictionaries(st.text() | st.sampled_from(["$", "v"]), inner, max_size=4),
        st.dictionaries(hashables, inner, max_size=4),
    ),
    max_leaves=12,
)


@given(value=values)
def test_every_nesting_of_standard_values_comes_back_identical(value: Any) -> None:
    codec = Codec(untyped)
    args, kwargs = codec.decode(codec.encode((value,), {"option": value}))
    assert same((value,), args, strict=True)
    assert same({"option": value}, kwargs, strict=True)


lines = st.builds(
    Line,
    sku=st.uuids(),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    colour=st.sampled_from(Colour),
    seen=st.frozensets(st.integers()),
)
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
    assert same((order, *more), args, strict=True)
    assert same({"x": {Colour.RED: named}}, kwargs, strict=True)


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


def codec_of(annotation: Any) -> Codec:
    def task(value: Any) -> None: ...

    task.__annotations__["value"] = annotation
    return Codec(task)
