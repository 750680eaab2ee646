"""What `compat.fastapi` relies on. Seen in FastAPI 0.165.0."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import fastapi.dependencies.utils as solving
import fastapi.routing as routing
import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Query, Request, Response, Security
from fastapi.security import APIKeyQuery, OAuth2PasswordBearer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from pydantic import BaseModel
from starlette.types import Message, Receive, Scope, Send

from taskflow_otel.compat import fastapi as compat
from taskflow_otel.compat.fastapi import (
    ROUTE_FUNCTIONS,
    asks_for,
    dependency_calls,
    function_stack,
    has_errors,
    leave_untraced,
    make_background_tasks_by,
    on_route_class,
    only_media_type,
    own_stacks,
    query_names,
    request_stack,
    security_schemes,
    untraced_paths,
)
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.request.endpoints import watch_endpoints
from tests.compat.shapes import Shape

SHAPE = Shape("fastapi", "0.165.0")


class Special(BackgroundTasks):
    """Background tasks of a kind of their own."""


def special_tasks(tasks: Special) -> BackgroundTasks:
    return tasks


async def get(app: Any, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.get(path)


async def test_fastapi_makes_background_tasks_from_the_name_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[BackgroundTasks] = []

    def make() -> BackgroundTasks:
        made.append(Special())
        return made[-1]

    app = FastAPI()
    given: list[BackgroundTasks] = []

    @app.get("/")
    async def route(tasks: BackgroundTasks) -> None:
        given.append(tasks)

    monkeypatch.setattr(solving, "BackgroundTasks", BackgroundTasks)
    make_background_tasks_by(make)
    make_background_tasks_by(make)
    await get(app, "/")
    SHAPE.holds(
        len(made) == 1 and given == made,
        "solve_dependencies in fastapi/dependencies/utils.py no longer calls the module's name BackgroundTasks; find "
        "where it makes the object, and replace that in make_background_tasks_by.",
    )


@pytest.mark.parametrize("present", [None, object, lambda: BackgroundTasks()])
def test_a_fastapi_that_makes_background_tasks_otherwise_is_refused(
    present: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solving, "BackgroundTasks", present)
    with pytest.raises(ConfigurationError, match=r"Use Depends\(task_manager.get_tasks\)"):
        make_background_tasks_by(BackgroundTasks)


async def test_the_route_of_a_request_says_how_its_background_tasks_are_annotated() -> None:
    app = FastAPI()
    asked: dict[str, bool] = {}

    @app.get("/plain")
    async def plain(request: Request, tasks: BackgroundTasks) -> None:
        asked["plain"] = asks_for(Special, request.scope)

    @app.get("/special")
    async def special(request: Request, tasks: Annotated[Special, "with metadata"]) -> None:
        asked["special"] = asks_for(Special, request.scope)

    @app.get("/nested")
    async def nested(request: Request, tasks: Annotated[BackgroundTasks, Depends(special_tasks)]) -> None:
        asked["nested"] = asks_for(Special, request.scope)

    for path in ("/plain", "/special", "/nested"):
        await get(app, path)
    SHAPE.holds(
        asked == {"plain": False, "special": True, "nested": True},
        "asks_for reads scope['route'].dependant, its call, its dependencies and its background_tasks_param_name, and "
        "get_typed_signature; look at Dependant in fastapi/dependencies/models.py, and at get_dependant beside it.",
    )


def test_the_dependencies_of_a_route_are_found_in_their_order() -> None:
    app = FastAPI()

    def before() -> None: ...
    def inner() -> None: ...
    def outer(_: None = Depends(inner)) -> None: ...

    @app.get("/", dependencies=[Depends(before)])
    async def route(_: None = Depends(outer)) -> None: ...

    (found,) = (one for one in app.routes if isinstance(one, routing.APIRoute) and one.path == "/")
    SHAPE.holds(
        dependency_calls(found.dependant) == [before, outer],
        "dependency_calls reads APIRoute.dependant and its dependencies; look at Dependant in "
        "fastapi/dependencies/models.py.",
    )


def test_the_query_parameters_of_a_route_are_found_by_the_names_that_clients_write() -> None:
    app = FastAPI()
    by_key = APIKeyQuery(name="api_key")

    def inner(since: str, renamed: str = Query(alias="as")) -> None: ...
    def outer(limit: int = 1, _: None = Depends(inner)) -> None: ...

    @app.get("/{name}")
    async def route(name: str, flag: bool = False, _: None = Depends(outer), key: str = Depends(by_key)) -> None: ...

    (found,) = (one for one in app.routes if isinstance(one, routing.APIRoute) and one.path == "/{name}")
    SHAPE.holds(
        query_names(found.dependant) == {"since", "as", "limit", "flag", "api_key"},
        "query_names reads the query_params of a Dependant and of its dependencies, the alias of each, and the name of "
        "an APIKeyQuery; look at Dependant in fastapi/dependencies/models.py, and at fastapi/security/api_key.py.",
    )


def test_the_security_schemes_of_a_route_are_found_once_each() -> None:
    bearer, by_key = OAuth2PasswordBearer("token"), APIKeyQuery(name="api_key")

    def inner(token: str = Depends(bearer)) -> None: ...
    def outer(_: None = Depends(inner), token: str = Security(bearer, scopes=["x"])) -> None: ...

    async def route(_: None = Depends(outer), key: str = Depends(by_key)) -> None: ...

    found = security_schemes(routing.APIRoute("/", route).dependant)
    SHAPE.holds(
        found == [bearer, by_key]
        and [scheme.scheme_name for scheme in found] == ["OAuth2PasswordBearer", "APIKeyQuery"],
        "security_schemes reads the call of a Dependant and of its dependencies; look at Dependant in "
        "fastapi/dependencies/models.py, and at SecurityBase in fastapi/security/base.py.",
    )


async def test_what_dependencies_open_is_closed_with_the_stacks_of_its_own() -> None:
    steps: list[str] = []

    async def opened() -> AsyncIterator[None]:
        steps.append("open")
        yield
        steps.append("closed")

    async def inner(
        one: None = Depends(opened), two: None = Depends(opened, use_cache=False, scope="function")
    ) -> Response:
        return Response()

    solve = routing.APIRoute("/", inner).get_route_handler()
    app = FastAPI()

    @app.get("/")
    async def route(request: Request) -> None:
        before = (request_stack(request.scope), function_stack(request.scope))
        async with own_stacks(request.scope):
            await solve(request)
            steps.append("solved")
        steps.append("after")
        assert (request_stack(request.scope), function_stack(request.scope)) == before

    await get(app, "/")
    SHAPE.holds(
        steps == ["open", "open", "solved", "closed", "closed", "after"],
        "APIRoute.get_route_handler enters dependencies with yield into the stacks of the scope whose keys are in "
        "_STACKS; look at solve_dependencies in fastapi/dependencies/utils.py.",
    )


async def test_a_route_calls_the_functions_that_are_wrapped_by_the_names_in_its_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    invalid: list[bool] = []

    def recording(name: str, function: Any) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            result = await function(*args, **kwargs)
            if name == "solve_dependencies":
                invalid.append(has_errors(result))
            return result

        return call

    for name in ROUTE_FUNCTIONS:
        function = getattr(routing, name, None)
        SHAPE.holds(
            function is not None,
            f"fastapi/routing.py has no {name}; find what its routes call instead, and name that in ROUTE_FUNCTIONS.",
        )
        monkeypatch.setattr(routing, name, recording(name, function))
    app = FastAPI()

    @app.get("/")
    async def route(number: int) -> int:
        return number

    await get(app, "/?number=1")
    SHAPE.holds(
        tuple(calls) == ROUTE_FUNCTIONS,
        "get_request_handler in fastapi/routing.py calls the application's code by other functions, or not by the "
        "names in its module; name its functions in ROUTE_FUNCTIONS, in the order of the calls.",
    )
    await get(app, "/?number=one")
    SHAPE.holds(
        invalid == [False, True],
        "solve_dependencies in fastapi/dependencies/utils.py no longer returns a SolvedDependency with errors; look at "
        "how get_request_handler finds out that a request is not valid, and do so in has_errors.",
    )


async def test_the_exit_stacks_of_a_request_end_before_and_after_its_response() -> None:
    app = FastAPI()
    events: list[str] = []

    @app.get("/")
    async def route(request: Request) -> None:
        function_stack(request.scope).callback(events.append, "function")
        request_stack(request.scope).callback(events.append, "request")

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        async def noted(message: Message) -> None:
            events.append(message["type"])
            await send(message)

        await app(scope, receive, noted)

    await get(noting, "/")
    SHAPE.holds(
        events == ["function", "http.response.start", "http.response.body", "request"],
        "request_response in fastapi/routing.py keeps its exit stacks elsewhere than in the scope, as "
        "fastapi_function_astack and fastapi_inner_astack, or leaves them at other moments.",
    )


def test_an_answer_is_documented_for_one_media_type_alone() -> None:
    class Out(BaseModel):
        text: str

    app = FastAPI()
    content = only_media_type("application/problem+json", {"schema": {"$ref": "#/components/schemas/Out"}})

    @app.get("/", responses={404: {"model": Out, "content": content}})
    async def route() -> None: ...

    document = app.openapi()
    SHAPE.holds(
        document["paths"]["/"]["get"]["responses"]["404"].get("content")
        == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Out"}}}
        and "Out" in document["components"]["schemas"],
        "get_openapi_path in fastapi/openapi/utils.py no longer adds the model of an additional response with "
        "`content.setdefault(media_type, {})`.",
    )


async def test_fastapis_own_telemetry_skips_what_it_is_told_to_skip() -> None:
    exported = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exported))
    app = FastAPI(telemetry={"tracer_provider": provider, "exclude": lambda scope: scope["path"] == "/own"})

    def answer() -> None:
        """Nothing to say."""

    for path in ("/own", "/jobs/livez", "/seen"):
        app.add_api_route(path, answer)
    leave_untraced(app, ["/jobs/metrics"])
    leave_untraced(app, ["/jobs/livez"])
    for path in ("/own", "/jobs/livez", "/seen"):
        assert (await get(app, path)).status_code == 200
    names = [span.name for span in exported.get_finished_spans() if span.kind is SpanKind.SERVER]
    SHAPE.holds(
        names == ["GET /seen"],
        "an application keeps its telemetry settings in _telemetry, where exclude is a function of the scope; without "
        "that, each probe and scrape is a trace.",
    )
    assert untraced_paths(app) == {"/jobs/metrics", "/jobs/livez"}
    assert untraced_paths(FastAPI()) == set()


def test_a_route_class_of_the_application_is_noticed_whenever_it_is_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    class Earlier(routing.APIRoute):
        pass

    # What is found stays found in this process, so that the hook must be there before.
    watch_endpoints()
    monkeypatch.setattr(compat, "_on_route_class", list(compat._on_route_class))
    found: list[str] = []

    def notice() -> None:
        found.append("one")

    on_route_class(notice)
    on_route_class(notice)
    assert found == ["one"], "one exists already"

    class Later(routing.APIRoute):
        pass

    class Own(routing.APIRoute):
        leaves_errors_to_stacks = True

    SHAPE.holds(
        found == ["one", "one"] and issubclass(Later, routing.APIRoute) and not issubclass(Own, Earlier),
        "routes are no longer of the class APIRoute of fastapi/routing.py, so that on_route_class finds none of the "
        "application's own classes.",
    )
