"""What both clients have in common: how requests are written and answers are read. No network."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any, TypedDict, TypeVar, cast
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from taskflow_otel.client.errors import (
    ClientError,
    InvalidArgumentError,
    RedirectError,
    UnexpectedAnswerError,
    UnreachableError,
    problem_error,
)
from taskflow_otel.client.extra import httpx
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.wire.audit import AuditOut
from taskflow_otel.wire.bodies import ErrorOut
from taskflow_otel.wire.bulk import OperationItemOut, OperationOut
from taskflow_otel.wire.problems import PROBLEM_TYPE
from taskflow_otel.wire.tasks import TaskOut

T = TypeVar("T")

TIMEOUT = 30.0
"""Seconds that a request may take to connect, and between two parts of the answer."""
SILENCE = 45.0
"""Seconds without a byte after which a live stream is dead: the server sends a comment every 15 seconds."""
MAX_REDIRECTS = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 30.0
_TASK_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Moment = datetime | timedelta | str
"""A time (without a zone: UTC), an age, or either of them as text (`2026-01-31T12:00:00Z`, `6h`)."""


class Filters(TypedDict, total=False):
    """The filters of the task list, as keyword arguments of the methods that take them.

    `tag`: `key:value`, or `key` for any value. `since`, `until`: created at or after, and before; `ended_since` and
    `ended_until` are about the end. `func_name_prefix`: the beginning of the name. `error`: a part of the error or its
    type. `min_duration`, `max_duration`: how long finished tasks ran: at least, and less than this (seconds as text, or
    `500ms`, `2m`). `fingerprint`: that of the latest failure. `q`: a part of the name, the error or the task id.
    """

    status: str
    func_name: str
    func_name_prefix: str
    queue: str
    tag: str
    source: str
    since: Moment
    until: Moment
    ended_since: Moment
    ended_until: Moment
    trace_id: str
    fingerprint: str
    error: str
    min_duration: str
    max_duration: str
    q: str


class ListFilters(Filters, total=False):
    """Those that the task list alone has.

    `args`: `name:value` of an argument (`order:782`, `customer.name:"Ada L"`), or a value of any argument; several with
    spaces between them must all match. One page searches about 2,000 tasks, and may be empty although more follow.
    """

    args: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the task list. `total_exact`: false if not all tasks were counted, so `total` is a lower bound.

    The others are of a search by `args`, and `None` without: `searched`, the number of tasks whose arguments this page
    has compared; `unsearchable`, how many it could not read; `back_to`, when the oldest of them was created.
    """

    tasks: list[TaskOut]
    total: int | None
    total_exact: bool
    next_cursor: str | None
    searched: int | None = None
    unsearchable: int | None = None
    back_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """One page of the audit."""

    entries: list[AuditOut]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class OperationPage:
    """One page of the bulk operations."""

    operations: list[OperationOut]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ResultPage:
    """One page of the results of a bulk operation."""

    items: list[OperationItemOut]
    next_cursor: str | None


class BearerAuth(httpx.Auth):
    """Sends a bearer token."""

    def __init__(self, token: str) -> None:
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigurationError("token must be a text of printable ASCII characters without spaces")
        self._header = f"Bearer {token}"

    def auth_flow(self, request: httpx.Request) -> Any:
        """Add the header."""
        request.headers["Authorization"] = self._header
        yield request


def checked_base(base_url: str) -> tuple[httpx.URL, httpx.Auth | None]:
    """The address of an administration without its user, and the user that it names; raises `ConfigurationError`."""
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, UnicodeError):
        # Its message can show a part of a password, for example one with a slash as if it were the port.
        raise ConfigurationError("base_url is not an address; in a password, write %2F for / and %40 for @") from None
    if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment:
        # The address may contain a password, so the message does not contain the address.
        raise ConfigurationError(
            "base_url must be the http(s) address of an administration, such as http://localhost:8000/tasks, "
            "without a query or a fragment"
        )
    auth = httpx.BasicAuth(url.username, url.password) if url.userinfo else None
    return url.copy_with(username=None, password=None, path=url.path.rstrip("/") or "/"), auth


def chosen_auth(
    auth: tuple[str, str] | httpx.Auth | None, token: str | None, from_url: httpx.Auth | None
) -> httpx.Auth | None:
    """The one way to log in that was given; raises `ConfigurationError` if there are several."""
    given: list[httpx.Auth] = [] if from_url is None else [from_url]
    if auth is not None:
        try:
            given.append(httpx.BasicAuth(*auth) if isinstance(auth, tuple) else auth)
        except UnicodeError:
            raise ConfigurationError("auth= has a character that is not text (a lone surrogate)") from None
    if token is not None:
        given.append(BearerAuth(token))
    if len(given) > 1:
        raise ConfigurationError("give one of auth=, token= and a user in base_url, not several")
    return given[0] if given else None


def segment(name: str, what: str) -> str:
    """A name as one segment of a path: slashes and everything else in it are escaped; raises `InvalidArgumentError`."""
    if not name:
        raise InvalidArgumentError(f"the name of a {what} is not empty")
    with writing_request():
        # Clients and proxies would resolve "." and ".." as folders.
        return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


def task_segment(task_id: str) -> str:
    """The id of a task as a segment of a path. Another text could be the name of another address."""
    if not isinstance(task_id, str) or not _TASK_ID.fullmatch(task_id):
        raise InvalidArgumentError(f"the id of a task is a UUID in lower case, not {task_id!a:.100}")
    return task_id


@contextmanager
def writing_request() -> Iterator[None]:
    """Raise `InvalidArgumentError` if an argument cannot be written into a request."""
    try:
        yield
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise InvalidArgumentError(f"an argument cannot be sent: {error}") from error


def written(params: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of a query string; `None` leaves one out."""
    return {name: _written(value) for name, value in params.items() if value is not None}


def _written(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case Enum():
            return str(value.value)
        case datetime():
            return value.isoformat()
        case timedelta():
            return f"{value.total_seconds():f}s"
        case _:
            return str(value)


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    made: TypeAdapter[Any] = TypeAdapter(cast(Any, kind))
    return made


def read(kind: type[T], response: httpx.Response, also: Collection[int] = ()) -> T:
    """The body of a successful answer, or of one with a status of `also`; raises `ClientError` for another one."""
    check(response, also)
    try:
        # Types are hashable, but a type checker does not know that of every one.
        body: T = _adapter(cast(Hashable, kind)).validate_json(response.content)
    except ValidationError as error:
        raise UnexpectedAnswerError(
            f"{_where(response)} sent a body that this version does not understand: {error}", response.status_code
        ) from None
    return body


def read_page(response: httpx.Response) -> Page:
    """A page of the task list."""
    tasks = read(list[TaskOut], response)
    back_to = response.headers.get("X-Searched-Back-To")
    return Page(
        tasks,
        _number(response, "X-Total-Count"),
        response.headers.get("X-Total-Count-Exact") != "false",
        response.headers.get("X-Next-Cursor"),
        _number(response, "X-Searched-Count"),
        _number(response, "X-Unsearchable-Count"),
        None if back_to is None else _moment(back_to),
    )


def _number(response: httpx.Response, header: str) -> int | None:
    text = response.headers.get(header)
    return int(text) if text is not None and text.isdecimal() else None


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def read_text(response: httpx.Response) -> str:
    """The text of a successful answer; raises `ClientError` for another one."""
    check(response)
    return response.text


def check(response: httpx.Response, also: Collection[int] = ()) -> None:
    """Raise the `ClientError` of an answer that is not successful."""
    problem = response.headers.get("Content-Type", "").partition(";")[0].strip() == PROBLEM_TYPE
    if not problem and (response.is_success or response.status_code in also):
        return
    if problem:
        try:
            body = ErrorOut.model_validate_json(response.content)
        except ValidationError:
            problem = False
        else:
            raise problem_error(body, retry_after(response))
    raise UnexpectedAnswerError(
        f"{_where(response)} answered {response.status_code} {response.reason_phrase}, but not as the API of "
        "taskflow-otel does: is this the address of its administration?",
        response.status_code,
    )


def retry_after(response: httpx.Response) -> float | None:
    """The seconds that an answer asks to wait, if it does so as a number."""
    try:
        seconds = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def pause_before_retry(asked: float | None, retry: float | None, failures: int) -> float:
    """Seconds to wait before a stream connects again: what the server asks for, or longer with each failure."""
    if asked is not None:
        return min(asked, _LONGEST_PAUSE)
    pause = (_FIRST_PAUSE if retry is None else retry) * float(1 << min(failures, 10))
    return min(pause, _LONGEST_PAUSE)


def next_request(request: httpx.Request, response: httpx.Response, redirects: int) -> httpx.Request | None:
    """The request that a redirect leads to; `None` if the answer is no redirect.

    Raises `RedirectError` for another origin (so that no password or token gets there), another method, or too many.
    """
    if response.next_request is None:
        return None
    target = response.next_request
    if _origin(target.url) != _origin(request.url):
        shown = target.url.copy_with(username=None, password=None)
        raise RedirectError(
            f"{_where(response)} redirects to another server, {shown}. No password or token is sent there; "
            "if it is right, give its address as base_url",
            str(shown),
        )
    if target.method != request.method or redirects >= MAX_REDIRECTS:
        raise RedirectError(
            f"{_where(response)} redirects to {target.url}; give its address as base_url", str(target.url)
        )
    return target


def transport_error(request: httpx.Request, error: httpx.RequestError | UnicodeError) -> ClientError:
    """The error of a request that got no answer, or none that can be read."""
    where, why = _shown(request.url), str(error) or type(error).__name__
    match error:
        case httpx.TimeoutException():
            return UnreachableError(f"{where} did not answer in time: {why}")
        case httpx.LocalProtocolError():
            return InvalidArgumentError(f"an argument cannot be sent: {why}")
        case httpx.TransportError() | UnicodeError():
            # A host with an impossible name is an error of its encoding.
            return UnreachableError(f"{where} cannot be reached: {why}")
        case _:
            return UnexpectedAnswerError(f"the answer of {where} cannot be read: {why}", None)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _where(response: httpx.Response) -> str:
    return _shown(response.request.url)


def _shown(url: httpx.URL) -> str:
    return str(url.copy_with(username=None, password=None, query=None))
