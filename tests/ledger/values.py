"""One value of every type that a task may be given, and functions that take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel


class Colour(Enum):
    RED = "red"
    BLUE = 2


class Level(IntEnum):
    LOW = 1


@dataclass(frozen=True)
class Line:
    sku: UUID
    price: Decimal
    colour: Colour
    seen: frozenset[int] = frozenset()


@dataclass
class Basket:
    lines: list[Line] = field(default_factory=list)
    opened: datetime | None = None


class Address(BaseModel):
    street: str
    point: tuple[float, float] | None = None


class Order(BaseModel):
    id: UUID
    placed: datetime
    patience: timedelta
    ship_to: Address
    basket: Basket
    raw: bytes = b""
    note: str | None = None


UNTYPED: dict[str, Any] = {
    "ident": UUID("6f9619ff-8b86-4d01-b42d-00cf4fc964ff"),
    "aware": datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=ZoneInfo("Europe/Berlin")),
    "offset": datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    "naive": datetime(2026, 10, 25, 2, 30, fold=1),
    "waited": timedelta(days=-3, microseconds=7),
    "price": Decimal("1234567.8900"),
    "raw": b"\x00\xff\x80 bytes",
    "seen": {1, 2, 3},
    "pair": (1, ("two", None), 3.5),
    "text": "naïve “quoted” \\ 日本語 🎉 \x00 \ud800",
}
TYPED: dict[str, Any] = {
    **UNTYPED,
    "colour": Colour.BLUE,
    "level": Level.LOW,
    "order": Order(
        id=UUID(int=7),
        placed=datetime(2026, 5, 5, tzinfo=UTC),
        patience=timedelta(hours=1),
        ship_to=Address(street="Main Street 1", point=(1.5, -2.0)),
        basket=Basket([Line(UUID(int=1), Decimal("9.90"), Colour.RED, frozenset({4}))], datetime(2026, 5, 4)),
        raw=b"\xfe",
    ),
    "line": Line(UUID(int=2), Decimal("0.10"), Colour.BLUE),
    "basket": Basket(),
}

Receive = Callable[[dict[str, Any]], None]


def takes_typed(receive: Receive) -> Callable[..., Any]:
    """A task function whose annotations say what it takes."""

    async def typed(
        ident: UUID,
        aware: datetime,
        offset: datetime,
        naive: datetime,
        waited: timedelta,
        price: Decimal,
        raw: bytes,
        seen: set[int],
        pair: tuple[int, tuple[str, None], float],
        text: str,
        *,
        colour: Colour,
        level: Level,
        order: Order,
        line: Line,
        basket: Basket,
    ) -> None:
        receive(dict(locals()))

    return typed


def takes_untyped(receive: Receive) -> Callable[..., Any]:
    """A task function without annotations."""

    async def untyped(ident, aware, offset, naive, waited, price, raw, seen, pair, text) -> None:  # type: ignore[no-untyped-def]  # this is the test
        receive(dict(locals()))

    return untyped
