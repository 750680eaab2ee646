"""The arguments that several commands share, and the types of arguments."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import Source

URL, TOKEN = "TASKFLOW_URL", "TASKFLOW_TOKEN"
"""Variables of the environment. A token is never an argument, since every user of the machine can read arguments."""
FILTERS = {
    "status": "Only tasks in this state.",
    "func_name": "Only tasks of this name.",
    "func_name_prefix": "Only tasks whose name begins with this text.",
    "queue": "Only tasks of this queue.",
    "tag": "`key:value`, or `key` for any value.",
    "source": "Only tasks of this source.",
    "since": "Created at or after: an ISO 8601 time, or an age (`6h`).",
    "until": "Created before: an ISO 8601 time, or an age (`6h`).",
    "ended_since": "Ended at or after: an ISO 8601 time, or an age (`6h`).",
    "ended_until": "Ended before: an ISO 8601 time, or an age (`6h`).",
    "trace_id": "Trace id, 32 hexadecimal digits.",
    "fingerprint": "Only tasks whose latest failure has this fingerprint, 16 hexadecimal digits.",
    "error": "Part of the error or of its type.",
    "min_duration": "Only finished tasks that ran for at least this long: seconds, or `500ms`, `5s`, `2m`.",
    "max_duration": "Only finished tasks that ran for less than this: seconds, or `500ms`, `5s`, `2m`.",
    "q": "Part of the name, the error or the task id.",
}
"""The names of `Filters`, which cannot be imported without httpx, with what the API says of them."""
_WORDS: dict[str, list[str]] = {"status": [one.value for one in TaskStatus], "source": [one.value for one in Source]}
_MOST = 1_000_000
_LAST_PORT = 65_535

F = TypeVar("F", bound=Callable[..., Any])
Work = Callable[..., int]
"""What a command does; returns its exit status."""


if TYPE_CHECKING:
    from taskflow_otel.cli.ledger import Ledger

    _Base = click.ParamType[Any, str]
else:
    # Generic since click 8.4.
    _Base = click.ParamType


class _Type(_Base):
    """Makes a value of a text, or says what is wrong with it."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value; raises `click.BadParameter`."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _MOST):
        raise ValueError(f"{text!r} is not a number of tasks (1 to {_MOST})")
    return int(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= _LAST_PORT:
        raise ValueError(f"{text!r} is not a port from 1 to {_LAST_PORT}")
    return int(text)


def _task_id(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        raise ValueError(f"{text!r} is not the id of a task, which is a UUID in lower case")
    return text


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an ISO 8601 time, such as 2026-01-31 or 2026-01-31T12:00:00Z") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _token(text: str) -> str:
    # The message of a failed request would contain a token that no header can have.
    if not text.isascii() or not text.isprintable() or not text.strip():
        raise ValueError("a token consists of printable ASCII characters")
    return text.strip()


def _address(text: str) -> str:
    # It is written into YAML, where a space or a quote would end it.
    if not re.fullmatch(r"[\w./][\w.~:/?#@!$&()*+,;=%-]+", text, re.ASCII):
        raise ValueError(f"{text!r} is not an address, such as https://wiki.example.com/taskflow")
    return text


COUNT = _Type("N", _count)
PORT = _Type("PORT", _port)
TASK_ID = _Type("ID", _task_id)
MOMENT = _Type("TIME", _moment)
BEARER = _Type("TOKEN", _token)
ADDRESS = _Type("URL", _address)


def filters(work: Work) -> Work:
    """Give a command the filters of the API; it gets those that were given, as `filters`."""

    @functools.wraps(work)
    def run(**options: Any) -> int:
        found = {name: options.pop(name) for name in FILTERS}
        return work(filters={name: value for name, value in found.items() if value is not None}, **options)

    wrapped: Work = run
    for name in reversed(FILTERS):
        words = _WORDS.get(name, [])
        completed = functools.partial(_complete, words)
        option = f"--{name.replace('_', '-')}"
        help_text = f"{FILTERS[name]} One of: {', '.join(words)}." if words else FILTERS[name]
        wrapped = click.option(option, metavar="TEXT", shell_complete=completed, help=help_text)(wrapped)
    return wrapped


def _complete(words: list[str], _: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    return [CompletionItem(word) for word in words if word.startswith(begun)]


def as_json(function: F) -> F:
    """The option `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each entry.")(function)


def namespace(function: F) -> F:
    """The option `--namespace`."""
    text = "The namespace that the application gives to its backend, if it gives one."
    return click.option("--namespace", metavar="NAME", help=text)(function)


def reason(function: F) -> F:
    """The option `--reason`."""
    return click.option("--reason", metavar="TEXT", help="Why; it is kept in the audit.")(function)


def asking(work: Work) -> Work:
    """Let a command ask the application that the user names: `work` gets its client as `source`."""

    @click.option("--url", envvar=URL, metavar="URL", help=_WHERE)
    @as_json
    @functools.wraps(work)
    def run(url: str | None, **options: Any) -> int:
        return _ask(work, url, options)

    return run


def reading(work: Work) -> Work:
    """As `asking`, or let it read a backend: `source` is then a `Ledger`."""
    return _either(work, _ledger, f"Read the tasks where they are stored, without an application: {_BACKENDS}.")


def ordering(work: Work) -> Work:
    """As `asking`, or let it store in a backend what its instances shall do: `source` is then an `Orders`."""
    return _either(work, _orders, f"Ask the instances that share a backend, through this backend: {_BACKENDS}.")


def _ledger() -> type[Ledger]:
    # Help and completion load nothing that only the work needs: neither the backends nor the engine.
    from taskflow_otel.cli.ledger import Ledger

    return Ledger


def _orders() -> type[Ledger]:
    from taskflow_otel.cli.orders import Orders

    return Orders


def _either(work: Work, kind: Callable[[], type[Ledger]], meaning: str) -> Work:
    @click.option("--url", envvar=URL, metavar="URL", help=_WHERE)
    @click.option("--backend", metavar="URL|PATH", help=meaning)
    @namespace
    @as_json
    @functools.wraps(work)
    def run(url: str | None, backend: str | None, namespace: str | None, **options: Any) -> int:
        if backend is None:
            if namespace is not None:
                raise ConfigurationError("--namespace is that of a backend: give --backend too")
            return _ask(work, url, options)
        with kind()(backend, namespace) as ledger:
            return work(source=ledger, **options)

    return run


_BACKENDS = "postgresql://…, mysql://…, redis://… or the path of a SQLite database"
"""What `--backend` can be."""
_WHERE = (
    f"The administration of an application, such as http://ada:secret@localhost:8000/tasks (or: ${URL}); a bearer "
    f"token is taken from ${TOKEN}."
)


def _ask(work: Work, url: str | None, options: dict[str, Any]) -> int:
    if not url:
        raise ConfigurationError(f"which application? Give --url http://localhost:8000/tasks, or set {URL}")
    # Only these commands need httpx.
    from taskflow_otel.client import Client

    with Client(url, token=os.environ.get(TOKEN) or None) as client:
        return work(source=client, **options)
