"""FastAPI: how it makes `BackgroundTasks`, how its routes call functions, its exit stacks, and its telemetry.

FastAPI has no hook for them. A replacement here happens once per process, for every application in it.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import fastapi.dependencies.utils as solving
import fastapi.routing as routing
from fastapi import BackgroundTasks, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import SolvedDependency
from fastapi.security import APIKeyCookie, APIKeyHeader, APIKeyQuery
from fastapi.security.base import SecurityBase
from starlette.routing import BaseRoute
from starlette.types import Scope

from taskflow_otel.errors import ConfigurationError

RouteFunction = Callable[..., Awaitable[Any]]

_CLASS = "BackgroundTasks"
ENDPOINT_CALL = "run_endpoint_function"
ROUTE_FUNCTIONS = ("solve_dependencies", ENDPOINT_CALL, "serialize_response")
"""The functions by which a route solves dependencies, calls the endpoint, and validates its result."""
_REQUEST_STACK, _FUNCTION_STACK = _STACKS = ("fastapi_inner_astack", "fastapi_function_astack")

_on_route_class: list[Callable[[], None]] = []
_wrappers: set[RouteFunction] = set()


def make_background_tasks_by(make: Callable[[], BackgroundTasks]) -> None:
    """Let FastAPI call `make` for each route and dependency that asks for `BackgroundTasks`; harmless to repeat.

    FastAPI makes the object from the name `BackgroundTasks` in the module that solves dependencies. Raises
    `ConfigurationError` for a version of FastAPI that does not.
    """
    present = getattr(solving, _CLASS, None)
    if present is make:
        return
    if not (isinstance(present, type) and issubclass(present, BackgroundTasks)):
        raise ConfigurationError(
            "this version of FastAPI makes BackgroundTasks in a way that taskflow-otel does not know. "
            "Use Depends(task_manager.get_tasks), and report the FastAPI version."
        )
    setattr(solving, _CLASS, make)


def asks_for(kind: type[BackgroundTasks], scope: Scope) -> bool:
    """Whether the route of a request, or one of its dependencies, annotates its background tasks with `kind`."""
    return _asks_for(kind, getattr(scope.get("route"), "dependant", None))


def _asks_for(kind: type[BackgroundTasks], dependant: Dependant | None) -> bool:
    if dependant is None:
        return False
    name = dependant.background_tasks_param_name
    if name is not None and dependant.call is not None:
        annotation = _annotation(dependant.call, name)
        if isinstance(annotation, type) and issubclass(annotation, kind):
            return True
    return any(_asks_for(kind, one) for one in dependant.dependencies)


@functools.lru_cache(maxsize=1024)
def _annotation(call: Callable[..., Any], parameter: str) -> object:
    annotation = solving.get_typed_signature(call).parameters[parameter].annotation
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def dependency_calls(dependant: Dependant) -> list[Callable[..., Any] | None]:
    """The functions of a route's own dependencies, in their order; not those that these ask for."""
    return [one.call for one in dependant.dependencies]


def build_routes(routes: Iterable[BaseRoute]) -> None:
    """Build the routes of included routers now: FastAPI builds all of them in one callback, at the first request."""
    for route in routes:
        route.matches({"type": "http", "method": "GET", "path": "/", "root_path": ""})


def query_names(dependant: Dependant) -> frozenset[str]:
    """The query parameters that a route and its dependencies take, by the names that a client writes."""
    own = {field.alias for field in dependant.query_params}
    if isinstance(dependant.call, APIKeyQuery):
        own.add(dependant.call.model.name)
    return frozenset(own.union(*map(query_names, dependant.dependencies)))


class Read(NamedTuple):
    """What a route and its dependencies read of a request, by the names on the wire, in lower case for headers."""

    headers: frozenset[str]
    queries: frozenset[str]
    cookies: frozenset[str]
    anything: bool
    """Whether one of them takes the request itself, and so may read anything."""


def what_is_read(dependant: Dependant) -> Read:
    """What a route and its dependencies read of a request."""
    headers, queries, cookies = (
        {field.alias for field in fields}
        for fields in (dependant.header_params, dependant.query_params, dependant.cookie_params)
    )
    anything = bool(dependant.request_param_name or dependant.http_connection_param_name)
    match dependant.call:
        case APIKeyHeader(model=model):
            headers.add(model.name)
        case APIKeyQuery(model=model):
            queries.add(model.name)
        case APIKeyCookie(model=model):
            cookies.add(model.name)
        case _:
            pass
    if isinstance(dependant.call, SecurityBase):
        # It takes the request, and reads what it says.
        anything = False
    for one in map(what_is_read, dependant.dependencies):
        headers, queries, cookies = headers | one.headers, queries | one.queries, cookies | one.cookies
        anything = anything or one.anything
    return Read(frozenset(map(str.lower, headers)), frozenset(queries), frozenset(cookies), anything)


def security_schemes(dependant: Dependant) -> list[SecurityBase]:
    """The security schemes that a route and its dependencies read credentials by, each once."""
    found = [dependant.call] if isinstance(dependant.call, SecurityBase) else []
    for one in dependant.dependencies:
        found += [scheme for scheme in security_schemes(one) if scheme not in found]
    return found


@asynccontextmanager
async def own_stacks(scope: Scope) -> AsyncIterator[None]:
    """Close what dependencies open in a request at the end of this context, and not with the response."""
    of_the_request = {name: scope[name] for name in _STACKS}
    async with AsyncExitStack() as after_response, AsyncExitStack() as before_response:
        scope.update(zip(_STACKS, (after_response, before_response), strict=True))
        try:
            yield
        finally:
            scope.update(of_the_request)


def wrap_route_functions(wrap: Callable[[RouteFunction, bool], RouteFunction], names: Collection[str]) -> None:
    """Wrap functions by which routes call the application's code; harmless to repeat.

    `wrap` gets each function, and whether it is the one that calls the endpoint. `names`: those of `ROUTE_FUNCTIONS`
    that are meant. Functions that this version of FastAPI does not have are skipped.
    """
    for name in names:
        present = getattr(routing, name, None)
        if present is not None and present not in _wrappers:
            wrapper = wrap(present, name == ENDPOINT_CALL)
            _wrappers.add(wrapper)
            setattr(routing, name, wrapper)


def on_route_class(found: Callable[[], None]) -> None:
    """Call back once a route class of the application's own exists, now or later; harmless to repeat.

    Not for a class that says `leaves_errors_to_stacks`. Only such a class has code between its routes and their stacks.
    """
    if found in _on_route_class:
        return
    if not _on_route_class:
        define = routing.APIRoute.__init_subclass__

        def defined(cls: type[routing.APIRoute], /, **options: Any) -> None:
            define(**options)
            if _has_code_between(cls):
                for one in _on_route_class:
                    one()

        routing.APIRoute.__init_subclass__ = classmethod(defined)  # type: ignore[assignment,method-assign]  # no hook
    _on_route_class.append(found)
    if any(map(_has_code_between, _subclasses(routing.APIRoute))):
        found()


def _has_code_between(cls: type[Any]) -> bool:
    return not getattr(cls, "leaves_errors_to_stacks", False)


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        yield one
        yield from _subclasses(one)


def has_errors(result: object) -> bool:
    """Whether this is a result of `solve_dependencies` for an invalid request: no endpoint will be called."""
    return isinstance(result, SolvedDependency) and bool(result.errors)


def stacks_of(scope: Scope) -> tuple[AsyncExitStack, AsyncExitStack] | None:
    """The request stack and the function stack of a request; `None` if no route of FastAPI has begun in it."""
    function_stack = scope.get(_FUNCTION_STACK)
    return None if function_stack is None else (scope[_REQUEST_STACK], function_stack)


def function_stack(scope: Scope) -> AsyncExitStack:
    """The exit stack of a request that closes before the response is sent."""
    stack: AsyncExitStack = scope[_FUNCTION_STACK]
    return stack


def request_stack(scope: Scope) -> AsyncExitStack:
    """The exit stack of a request that closes after the response was sent."""
    stack: AsyncExitStack = scope[_REQUEST_STACK]
    return stack


class _OneMediaType(dict[str, Any]):
    """The content of a documented answer, to which FastAPI would add the media type of the route's usual answer."""

    def setdefault(self, key: str, default: Any = None) -> Any:
        """What is given for the one media type."""
        [given] = self.values()
        return given


def only_media_type(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """The `content` of an additional response with a `model`: OpenAPI shows the model for this media type alone."""
    return _OneMediaType({name: content})


def leave_untraced(app: FastAPI, paths: Collection[str]) -> None:
    """Make no spans, logs and metrics of requests for these paths, relative to the application's root.

    FastAPI's own telemetry is told so now; what else instruments the application asks for `untraced_paths`. What the
    application itself excludes stays excluded.
    """
    app.state.taskflow_untraced = untraced_paths(app) | frozenset(paths)
    config = getattr(app, "_telemetry", None)
    if config is None:
        return
    given = config["exclude"]

    def excluded(scope: MutableMapping[str, Any]) -> bool:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        return path in paths or (given is not None and given(scope))

    config["exclude"] = excluded


def untraced_paths(app: FastAPI) -> frozenset[str]:
    """The paths given to `leave_untraced`."""
    found: frozenset[str] = getattr(app.state, "taskflow_untraced", frozenset())
    return found
