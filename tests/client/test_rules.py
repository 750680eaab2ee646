"""How requests are written and answers are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from taskflow_otel.client import BearerAuth, Client, errors
from taskflow_otel.client.rules import segment, task_segment, written
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.status import TaskStatus

SECRET = "s3cret"


def client_of(answer: Any, base_url: str = "https://tasks.example/tasks", **options: Any) -> Client:
    """A client whose requests go to a function."""
    return Client(base_url, http=httpx.Client(transport=httpx.MockTransport(answer)), **options)


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example/tasks/queues",
        "http://tasks.example/tasks/queues",
        "https://tasks.example:8443/tasks/queues",
        "//evil.example/tasks/queues",
    ],
)
@pytest.mark.parametrize("login", [{"token": SECRET}, {"auth": ("ada", SECRET)}])
def test_no_token_and_no_password_follows_a_redirect_to_another_server(elsewhere: str, login: dict[str, Any]) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(307, headers={"Location": elsewhere})

    with pytest.raises(errors.RedirectError, match="redirects to another server") as refused:
        client_of(answer, **login).list_queues()
    assert len(seen) == 1
    assert SECRET not in str(refused.value)


def test_a_redirect_within_the_server_is_followed_with_the_login() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == f"Bearer {SECRET}"
        if request.url.path == "/tasks/queues":
            return httpx.Response(307, headers={"Location": "/new/queues"})
        return httpx.Response(200, json=[])

    assert client_of(answer, token=SECRET).list_queues() == []


def test_redirects_without_an_end_and_redirects_of_an_action_are_errors() -> None:
    seen: list[str] = []

    def around(request: httpx.Request) -> httpx.Response:
        seen.append(request.method)
        return httpx.Response(302, headers={"Location": str(request.url)})

    with pytest.raises(errors.RedirectError):
        client_of(around).list_queues()
    assert len(seen) == 6
    with pytest.raises(errors.RedirectError):
        client_of(around).pause_queue("mail")
    # It would have become a GET.
    assert seen[6:] == ["POST"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (httpx.Response(200, json={"no": "list"}), "does not understand"),
        (httpx.Response(200, text="<html>"), "does not understand"),
        (httpx.Response(502, text="<html>"), "answered 502 Bad Gateway, but not as the API"),
        (httpx.Response(404, headers={"Content-Type": "application/problem+json"}), "answered 404"),
        (httpx.Response(503, json=[]), "answered 503"),
    ],
)
def test_an_answer_that_is_not_one_of_the_api_says_so(answer: httpx.Response, says: str) -> None:
    client = client_of(lambda request: answer, "https://ada:s3cret@tasks.example/tasks")
    with pytest.raises(errors.UnexpectedAnswerError, match=says) as unexpected:
        client.list_queues()
    assert unexpected.value.status == answer.status_code
    assert "https://tasks.example/tasks/queues" in str(unexpected.value)
    assert SECRET not in str(unexpected.value)


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "tasks",
        "ftp://x/tasks",
        "http:///tasks",
        "http://x/tasks?a=1",
        "http://x/#a",
        "http://x:y/",
        "http://\udcff/tasks",
        "http://x/\udcff",
        "http://ada:\udcff@x/tasks",
        f"http://x/{'y' * 70_000}",
    ],
)
def test_an_address_that_is_no_administration_is_refused_without_its_password(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        Client(base_url)


UNSENDABLE: dict[str, Callable[[Client], object]] = {
    "a filter that is no text": lambda client: client.list_tasks(q="\udcff"),
    "a filter that is too long": lambda client: client.list_tasks(func_name="x" * 70_000),
    "a reason that is no text": lambda client: client.retry_failed(reason="\udcff"),
    "ids that are no text": lambda client: client.bulk_retry(["\udcff"]),
    "a name that is no text": lambda client: client.pause_queue("\udcff"),
    "no name": lambda client: client.pause_queue(""),
    "no id": lambda client: client.get_task("\udcff"),
    "a key that no header can carry": lambda client: client.bulk_retry([], idempotency_key="é"),
    "a limit that is no number": lambda client: client.configure_queue("mail", max_size=float("nan")),  # type: ignore[arg-type]  # that is the mistake
    "ids that are no list of texts": lambda client: client.bulk_retry([object()]),  # type: ignore[list-item]  # as above
    "an event that no header can carry": lambda client: next(client.get_events(after="é")),
}


@pytest.mark.parametrize("kind", UNSENDABLE)
def test_an_argument_that_no_request_can_carry_is_an_error_of_the_client_and_a_value_error(kind: str) -> None:
    with Client("http://127.0.0.1:1/tasks") as client, pytest.raises(errors.InvalidArgumentError) as refused:
        UNSENDABLE[kind](client)
    assert isinstance(refused.value, ValueError | errors.ClientError)
    str(refused.value).encode()


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (httpx.DecodingError("not gzip"), errors.UnexpectedAnswerError, "cannot be read: not gzip"),
        (httpx.TooManyRedirects("around"), errors.UnexpectedAnswerError, "cannot be read: around"),
        (httpx.RequestError("something new"), errors.UnexpectedAnswerError, "cannot be read: something new"),
        (httpx.RemoteProtocolError("no HTTP"), errors.UnreachableError, "cannot be reached: no HTTP"),
        (httpx.LocalProtocolError("Illegal header value"), errors.InvalidArgumentError, "cannot be sent: Illegal"),
        (httpx.UnsupportedProtocol(""), errors.UnreachableError, "cannot be reached: UnsupportedProtocol"),
        (httpx.PoolTimeout(""), errors.UnreachableError, "did not answer in time"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_whatever_httpx_raises_for_a_request_is_an_error_of_the_client(
    answer: httpx.RequestError, kind: type[errors.ClientError], says: str
) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        answer.request = request
        raise answer

    class Broken(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"retry: 0\n\n"
            raise answer

    with pytest.raises(kind, match=says):
        client_of(fail).list_queues()
    events = client_of(lambda request: httpx.Response(200, stream=Broken())).get_events(reconnect=False)
    with pytest.raises(kind, match=says):
        next(events)


def test_a_body_that_is_not_what_its_header_says_is_an_error_of_the_client() -> None:
    def damaged(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=iter([b"not gzip"]), headers={"Content-Encoding": "gzip"})

    with pytest.raises(errors.UnexpectedAnswerError, match="cannot be read") as unexpected:
        client_of(damaged).list_queues()
    assert unexpected.value.status is None


def test_a_host_with_an_impossible_name_cannot_be_reached() -> None:
    with Client(f"http://{'a' * 64}.example/tasks") as client, pytest.raises(errors.UnreachableError):
        client.list_queues()


def test_several_ways_to_log_in_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="not several"):
        Client("http://ada:x@test/tasks", token="t")
    with pytest.raises(ConfigurationError, match="not several"):
        Client("http://test/tasks", auth=("ada", "x"), token="t")
    with pytest.raises(ConfigurationError, match="auth="):
        Client("http://test/tasks", auth=("ada", "\udcff"))


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "ä"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(ConfigurationError, match="token"):
        BearerAuth(token)


def test_the_values_of_parameters_are_written_as_the_api_reads_them() -> None:
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert written({"a": True, "b": None, "c": TaskStatus.FAILED, "d": moment, "e": timedelta(hours=1), "f": 7}) == {
        "a": "true",
        "c": "failed",
        "d": "2026-01-31T12:00:00+00:00",
        "e": "3600.000000s",
        "f": "7",
    }


def test_a_name_is_one_segment_of_a_path() -> None:
    assert segment("a/b?c#d%", "queue") == "a%2Fb%3Fc%23d%25"
    assert (segment("..", "queue"), segment(".", "queue"), segment(".a", "queue")) == ("%2E%2E", "%2E", ".a")
    with pytest.raises(ValueError, match="not empty"):
        segment("", "queue")


@pytest.mark.parametrize("task_id", ["", "stats", "../queues", "x/retry", "0" * 36, "\0", "\ud800", 5, None, b"x"])
def test_an_id_that_could_be_another_address_is_not_asked_for(task_id: Any) -> None:
    with pytest.raises(ValueError, match="UUID"):
        task_segment(task_id)
