"""What cannot be stored, or read back, is refused at once, in a sentence that says what to do."""

from __future__ import annotations

import dataclasses
import json
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, PrivateAttr, SecretStr, field_validator

from taskflow_otel.errors import TaskArgumentError
from taskflow_otel.model.payload import MAX_PAYLOAD_BYTES, Codec

if TYPE_CHECKING:
    from fractions import Fraction as OnlyForTheChecker


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Base(BaseModel):
    name: str = "x"


class Derived(Base):
    more: int = 0


class Vault(BaseModel):
    secret: SecretStr


class Forgetful(BaseModel):
    kept: int
    dropped: int = Field(exclude=True)


class Counting(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def one_more(cls, value: int) -> int:
        return value + 1


class Private(BaseModel):
    _hidden: int = PrivateAttr(default=0)

    def hide(self, value: int) -> Private:
        self._hidden = value
        return self


class Exploding(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def explode(cls, value: int) -> int:
        raise LookupError(f"secret-{value}")


class Left(BaseModel):
    n: int


class Right(BaseModel):
    n: int


@dataclasses.dataclass
class Money:
    amount: Decimal


class Text(str):
    __slots__ = ()


class Elsewhere(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        return None


class Opaque:
    pass


def task_with(annotation: Any) -> Codec:
    def task(value: Any) -> None: ...

    task.__annotations__["value"] = annotation
    return Codec(task, name="send_email")


def wrong(model: BaseModel, **values: Any) -> BaseModel:
    """Give a model values that its validation would not have let in."""
    return model.model_copy(update=values)


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("annotation", "value", "says"),
    [
        (Any, Colour.RED, "Annotate the parameter"),
        (Any, [{"a": (Base(),)}], "Annotate the parameter"),
        (object, Money(Decimal(1)), "Annotate the parameter"),
        (Base, Derived(more=1), "come back as a tests.model.test_payload_errors.Base"),
        (list[Base], [Derived(more=1)], "come back different"),
        (Left | Right, Right(n=1), "come back as a"),
        (int, Level.LOW, "Annotate the parameter with tests.model.test_payload_errors.Level"),
        (str, Text("x"), "come back as a str"),
        (dict[str, Any], {"a": Colour.RED}, "come back different"),
        (Vault, Vault(secret=SecretStr("hush")), "come back different"),
        (Forgetful, Forgetful(kept=1, dropped=2), "Pass a value of the annotated type"),
        (Counting, Counting.model_construct(n=1), "come back different"),
        (Private, Private().hide(3), "come back different"),
        (Exploding, Exploding.model_construct(n=1), "LookupError"),
        (Base, wrong(Base(), name=5), "Pass a value of the annotated type"),
        (Money, Colour.RED, "pydantic cannot store it"),
        (Opaque, Opaque(), "pydantic cannot use its annotation"),
        (Callable[[], None], print, "pydantic cannot store it"),
        (Iterator[int], iter([1]), "cannot be stored"),
        ("NoSuchName", Colour.RED, "cannot be resolved (name 'NoSuchName' is not defined)"),
        (Any, deep(101), "more than 100 levels"),
        (Any, endless(), "contains itself"),
        (list[Any], endless(), "contains itself"),
        (datetime, datetime(2026, 1, 1, tzinfo=Elsewhere()), "cannot be stored"),
        (Any, time(1, tzinfo=Elsewhere()), "has no offset"),
    ],
)
def test_what_would_not_come_back_is_refused(annotation: Any, value: Any, says: str) -> None:
    with pytest.raises(TaskArgumentError) as caught:
        task_with(annotation).encode((value,), {})
    message = str(caught.value)
    assert "send_email" in message
    assert "'value'" in message
    assert type(value).__name__ in message
    assert says in message


def test_a_parameter_without_annotation_is_told_to_get_one() -> None:
    def task(value): ...  # type: ignore[no-untyped-def]  # that is what is tested

    with pytest.raises(TaskArgumentError, match=r"has no annotation\. Annotate it with the type"):
        Codec(task).encode((Colour.RED,), {})


def test_the_message_names_the_argument_and_not_the_star() -> None:
    def task(*values: Any, **options: Any) -> None: ...

    codec = Codec(task)
    with pytest.raises(TaskArgumentError, match=r"'values\[1\]'"):
        codec.encode((1, Colour.RED), {})
    with pytest.raises(TaskArgumentError, match="'colour'"):
        codec.encode((), {"colour": Colour.RED})


def test_an_annotation_that_exists_for_the_checker_only_stands_in_nobodys_way() -> None:
    def task(value: OnlyForTheChecker, other: UUID) -> None: ...

    codec = Codec(task)
    args = (Decimal("1.0"), UUID(int=1))
    assert codec.decode(codec.encode(args, {})) == (args, {})
    with pytest.raises(TaskArgumentError, match="not under TYPE_CHECKING"):
        codec.encode((Colour.RED, UUID(int=1)), {})


@pytest.mark.parametrize("size", [0, 1])
def test_the_size_is_capped_exactly(size: int) -> None:
    def task(text: str) -> None: ...

    codec = Codec(task)
    text = "x" * (MAX_PAYLOAD_BYTES - len(codec.encode(("",), {})) + size)
    if size == 0:
        assert len(codec.encode((text,), {})) == MAX_PAYLOAD_BYTES
    else:
        with pytest.raises(TaskArgumentError, match=r"1,048,577 bytes, more than the 1,048,576"):
            codec.encode((text,), {})


@pytest.mark.parametrize("annotation", [list[int], object, Iterator[int], None])
def test_what_can_be_read_once_is_refused_with_the_way_out(annotation: Any) -> None:
    with pytest.raises(TaskArgumentError, match=r"can be read only once.* Pass what it yields as a list"):
        task_with(annotation).encode(((number for number in range(3)),), {})


def test_the_size_cap_can_be_set() -> None:
    def task(text: str) -> None: ...

    with pytest.raises(TaskArgumentError, match="more than the 10 "):
        Codec(task, max_bytes=10).encode(("",), {})


def positional_only(a: int, /, b: int, *, c: int, d: int = 0) -> None: ...


def by_keyword(a: int, b: int = 0) -> None: ...


def anything(a: int, /, *rest: int, **options: int) -> None: ...


CALLS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (func, args, dict.fromkeys(names, 0))
    for func in (positional_only, by_keyword, anything)
    for args in ((), (1,), (1, 2), (1, 2, 3))
    for names in ((), ("a",), ("b",), ("c",), ("b", "c"), ("a", "b"), ("c", "d"), ("b", "c", "d"), ("e",))
]


@pytest.mark.parametrize(("func", "args", "kwargs"), CALLS)
def test_arguments_are_refused_exactly_when_the_call_would_fail(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    codec = Codec(func)
    try:
        func(*args, **kwargs)
    except TypeError:
        with pytest.raises(TaskArgumentError, match=func.__name__):
            codec.encode(args, kwargs)
    else:
        assert codec.decode(codec.encode(args, kwargs)) == (args, kwargs)


def test_an_argument_that_does_not_fit_is_a_type_error_with_the_functions_name() -> None:
    with pytest.raises(TypeError, match=r"by_keyword\(\) cannot be called .* unexpected keyword argument 'z'"):
        Codec(by_keyword).check((1,), {"z": 1})


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ('{"v": 1}', "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"v": 2, "args": [], "kwargs": {}}', "Upgrade taskflow-otel"),
        ('{"v": 1, "args": [], "kwargs": {}}', "The function has changed"),
        ('{"v": 1, "args": [{"$": "martian", "v": 1}], "kwargs": {}}', "'martian'"),
        ('{"v": 1, "args": [{"$": "uuid", "v": "x"}], "kwargs": {}}', "cannot be read back"),
        ('{"v": 1, "args": [{"$": "datetime", "v": ["2026-01-01", 0, "No/Where"]}], "kwargs": {}}', "cannot be read"),
        ('{"v": 1, "args": [{"$": "typed", "v": {"$": "enum", "v": ["Popen", "x"]}}], "kwargs": {}}', "cannot be read"),
        ("fernet1:abc", "encrypt_args_key"),
    ],
)
def test_a_payload_that_cannot_be_read_says_why(payload: str, says: str) -> None:
    with pytest.raises(TaskArgumentError) as caught:
        task_with(int).decode(payload)
    assert says in str(caught.value)
    assert "send_email" in str(caught.value)


def test_an_argument_whose_annotation_has_gone_cannot_be_read() -> None:
    payload = task_with(Colour).encode((Colour.RED,), {})

    def task(value): ...  # type: ignore[no-untyped-def]  # that is what is tested

    with pytest.raises(TaskArgumentError, match="has no annotation"):
        Codec(task).decode(payload)


def test_an_argument_whose_type_has_changed_cannot_be_read() -> None:
    payload = task_with(Left).encode((Left(n=1),), {})
    with pytest.raises(TaskArgumentError, match="Has its type changed"):
        task_with(Money).decode(payload)


def test_errors_show_no_values_for_they_are_stored_and_logged() -> None:
    payload = task_with(Base).encode((Base(name="hush-hush"),), {})
    damaged = json.dumps({"v": 1, "args": [{"$": "datetime", "v": "hush-hush"}], "kwargs": {}})
    attempts: list[Callable[[], Any]] = [
        lambda: task_with(Left).decode(payload),
        lambda: task_with(Base).decode(damaged),
        lambda: task_with(Left).encode((Base(name="hush-hush"),), {}),
        lambda: task_with(Exploding).encode((Exploding.model_construct(n=7),), {}),
    ]
    for attempt in attempts:
        with pytest.raises(TaskArgumentError) as caught:
            attempt()
        shown = "".join(traceback.format_exception(caught.value)[-1:]) + str(caught.value.__cause__)
        assert caught.value.__suppress_context__
        assert "hush" not in shown
        assert "secret-7" not in shown
