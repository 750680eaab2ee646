"""Types, values and strategies for arguments."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, computed_field

from taskflow_otel.model.equality import equal
from taskflow_otel.model.payload import Codec


class Colour(Enum):
    RED = "red"
    BLUE = 2


class Point(NamedTuple):
    x: int
    y: float = 0.0


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
    assert equal(positional, by_name["value"], strict=False)
    return positional


BERLIN = ZoneInfo("Europe/Berlin")


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


lines = st.builds(
    Line,
    sku=st.uuids(),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    colour=st.sampled_from(Colour),
    seen=st.frozensets(st.integers()),
)
