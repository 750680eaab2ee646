"""The connection of the asynchronous client: how a request is sent, and how the live stream is followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from taskflow_otel.client.errors import (
    BackendUnavailableError,
    ClientError,
    NotStartedError,
    ProblemError,
    TooManyStreamsError,
    UnexpectedAnswerError,
    UnreachableError,
)
from taskflow_otel.client.events import Event, EventParser
from taskflow_otel.client.extra import httpx
from taskflow_otel.client.rules import (
    SILENCE,
    check,
    checked_base,
    chosen_auth,
    next_request,
    pause_before_retry,
    transport_error,
    writing_request,
    written,
)

_PASSING = (UnreachableError, TooManyStreamsError, NotStartedError, BackendUnavailableError)
"""Errors after which a live stream connects again."""


class AsyncConnection:
    """The way to one administration; its arguments are those of `AsyncClient`."""

    def __init__(
        self,
        base_url: str,
        *,
        auth: tuple[str, str] | httpx.Auth | None,
        token: str | None,
        timeout: float,
        http: httpx.AsyncClient | None,
    ) -> None:
        url, from_url = checked_base(base_url)
        self._base = str(url).rstrip("/")
        self._auth = chosen_auth(auth, token, from_url)
        self._timeout = timeout
        self._owned = http is None
        self._http = httpx.AsyncClient() if http is None else http

    async def aclose(self) -> None:
        """Close the connections, unless `http` was given."""
        if self._owned:
            await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        params: Any = None,
        body: Any = None,
        *,
        accept: str = "application/json",
        key: str | None = None,
    ) -> httpx.Response:
        """The answer to a request, whatever its status.

        Raises `UnreachableError` if nobody answers, and `InvalidArgumentError` for arguments that cannot be sent.
        `key`: an idempotency key, with which a repeated request is carried out once.
        """
        with writing_request():
            request = self._http.build_request(
                method,
                f"{self._base}{path}",
                params=written(params or {}),
                json=body,
                headers={"Accept": accept, **({} if key is None else {"Idempotency-Key": key})},
                timeout=self._timeout,
            )
        return await self._send(request)

    @asynccontextmanager
    async def _open_stream(self, last_id: str | None) -> AsyncIterator[httpx.Response]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        timeout = httpx.Timeout(self._timeout, read=max(self._timeout, SILENCE))
        with writing_request():
            request = self._http.build_request("GET", f"{self._base}/events", headers=headers, timeout=timeout)
        response = await self._send(request, stream=True)
        try:
            if not response.is_success:
                await response.aread()
            check(response)
            yield response
        except httpx.RequestError as error:
            raise transport_error(request, error) from error
        finally:
            await response.aclose()

    async def _send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        auth = httpx.USE_CLIENT_DEFAULT if self._auth is None else self._auth
        redirects = 0
        while True:
            try:
                response = await self._http.send(request, auth=auth, stream=stream, follow_redirects=False)
            except (httpx.RequestError, UnicodeError) as error:
                raise transport_error(request, error) from error
            try:
                following = next_request(request, response, redirects)
            except ClientError:
                await response.aclose()
                raise
            if following is None:
                return response
            await response.aclose()
            request, redirects = following, redirects + 1

    async def follow(self, after: str | None, *, reconnect: bool) -> AsyncGenerator[Event]:
        """The live stream after an event; see `AsyncClient.get_events`."""
        parser = EventParser(after)
        connected, failures = False, 0
        while True:
            asked: float | None = None
            try:
                async with self._open_stream(parser.last_id) as response:
                    connected, failures = True, 0
                    async for chunk in response.aiter_bytes():
                        for event in _parsed(parser, chunk):
                            yield event
            except _PASSING as error:
                if not (connected and reconnect):
                    raise
                asked = error.retry_after if isinstance(error, ProblemError) else None
            if not reconnect:
                return
            parser.reconnect()
            await asyncio.sleep(pause_before_retry(asked, parser.retry, failures))
            failures += 1


def _parsed(parser: EventParser, chunk: bytes) -> list[Event]:
    try:
        return parser.feed(chunk)
    except ValueError as error:
        raise UnexpectedAnswerError(f"the live stream sent data that is not JSON: {error}", 200) from None
