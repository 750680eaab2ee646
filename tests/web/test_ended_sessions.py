"""Sessions that were ended before their time."""

from __future__ import annotations

import asyncio

import pytest

from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.web import ended_sessions
from taskflow_otel.web.auth import Role
from taskflow_otel.web.ended_sessions import EndedSessions
from taskflow_otel.web.sessions import Session
from tests.clocks import HandClock


class Shared:
    """What all instances share."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {"other:key": "1"}
        self.reads = 0
        self.down = False

    async def read(self, prefix: str) -> dict[str, str]:
        if self.down:
            raise BackendUnavailableError("down")
        self.reads += 1
        return {key: value for key, value in self.values.items() if key.startswith(prefix)}

    async def write(self, key: str, value: str | None) -> None:
        if self.down:
            raise BackendUnavailableError("down")
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture
def workers(shared: Shared, clock: HandClock) -> tuple[EndedSessions, EndedSessions]:
    """Two workers of one administration."""
    return EndedSessions(shared, "/tasks", clock=clock), EndedSessions(shared, "/tasks", clock=clock)


def session(session_id: str = "one", username: str = "ada", generation: str = "", expires_at: float = 100.0) -> Session:
    return Session(username, Role.VIEWER, session_id, "stamp", generation, expires_at, "csrf")


async def test_an_ended_session_has_ended_here_at_once_and_elsewhere_within_a_second(
    workers: tuple[EndedSessions, EndedSessions], clock: HandClock
) -> None:
    here, elsewhere = workers
    assert not await here.includes(session())
    assert not await elsewhere.includes(session())
    await here.end("one", 100.0)
    assert await here.includes(session())
    clock.seconds += 1.01
    assert await elsewhere.includes(session())
    assert not await elsewhere.includes(session("two"))


async def test_all_sessions_of_a_user_end_together_and_a_new_one_is_valid(
    workers: tuple[EndedSessions, EndedSessions], shared: Shared, clock: HandClock
) -> None:
    here, elsewhere = workers
    await here.end_all("ada")
    for worker in (here, elsewhere):
        assert await worker.includes(session("one"))
        assert await worker.includes(session("two"))
        assert not await worker.includes(session("three", "vic"))
        generation = await worker.generation("ada")
        assert not await worker.includes(session("four", generation=generation))
    of_another_path = EndedSessions(shared, "/other", clock=clock)
    assert not await of_another_path.includes(session("one"))


async def test_a_restart_forgets_nothing(shared: Shared, clock: HandClock) -> None:
    await EndedSessions(shared, "/tasks", clock=clock).end("one", 100.0)
    assert await EndedSessions(shared, "/tasks", clock=clock).includes(session())


async def test_many_requests_of_one_second_share_one_reading(
    workers: tuple[EndedSessions, EndedSessions], shared: Shared, clock: HandClock
) -> None:
    here, _ = workers
    for _ in range(100):
        await here.includes(session())
    assert shared.reads == 1
    clock.seconds += 1.01
    await here.includes(session())
    assert shared.reads == 2


async def test_while_the_backend_is_down_the_last_known_state_counts_and_nothing_is_assumed_before(
    workers: tuple[EndedSessions, EndedSessions], shared: Shared, clock: HandClock
) -> None:
    here, elsewhere = workers
    await here.end("one", 100.0)
    await here.includes(session())
    shared.down = True
    clock.seconds += 5.0
    assert await here.includes(session())
    assert not await here.includes(session("two"))
    with pytest.raises(BackendUnavailableError):
        await elsewhere.includes(session("two"))
    with pytest.raises(BackendUnavailableError):
        await here.generation("ada")


@pytest.mark.parametrize("silent", [True, False])
async def test_all_requests_together_wait_once_a_second_for_a_backend_that_is_down(
    shared: Shared, clock: HandClock, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    monkeypatch.setattr(ended_sessions, "_PATIENCE", 0.01)
    ended, asked = EndedSessions(shared, "/tasks", clock=clock), 0

    async def down(prefix: str) -> dict[str, str]:
        nonlocal asked
        asked += 1
        if silent:
            await asyncio.Event().wait()
        raise BackendUnavailableError("down")

    monkeypatch.setattr(shared, "read", down)
    for seconds in (0.0, 1.01):
        clock.seconds += seconds
        answers = await asyncio.gather(*(ended.includes(session()) for _ in range(20)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [BackendUnavailableError] * 20
    assert asked == 2
    monkeypatch.undo()
    clock.seconds += 1.01
    assert not await ended.includes(session())


async def test_a_session_that_cannot_be_ended_has_not_ended(
    workers: tuple[EndedSessions, EndedSessions], shared: Shared
) -> None:
    here, _ = workers
    await here.includes(session())
    shared.down = True
    for ending in (here.end("one", 100.0), here.end_all("ada")):
        with pytest.raises(BackendUnavailableError):
            await ending
    assert not await here.includes(session())


async def test_a_reading_that_began_before_a_session_was_ended_does_not_bring_it_back(
    shared: Shared, clock: HandClock
) -> None:
    ended = EndedSessions(shared, "/tasks", clock=clock)
    read = shared.read

    async def slow(prefix: str) -> dict[str, str]:
        stored = await read(prefix)
        if shared.reads == 1:
            await ended.end("one", 100.0)
        return stored

    shared.read = slow  # type: ignore[method-assign]
    assert await ended.includes(session())


async def test_what_has_expired_is_deleted_by_a_later_logout(
    workers: tuple[EndedSessions, EndedSessions], shared: Shared, clock: HandClock
) -> None:
    here, _ = workers
    await here.end_all("ada")
    for number in range(5):
        await here.end(f"old-{number}", 50.0)
    shared.values["session:ended:damaged"] = "nonsense"
    clock.seconds = 60.0
    await here.includes(session())
    await here.end("new", 160.0)
    left = {key for key in shared.values if key.startswith("session:ended:")}
    assert left == {"session:ended:damaged", "session:ended:new"}
    assert await here.includes(session("damaged"))
    assert await here.includes(session(generation=""))
    assert shared.values["other:key"] == "1"


async def test_requests_that_wait_for_a_slow_reading_share_the_next_one(shared: Shared, clock: HandClock) -> None:
    read = shared.read

    async def slowly(prefix: str) -> dict[str, str]:
        clock.seconds += 1.5
        await asyncio.sleep(0)
        return await read(prefix)

    shared.read = slowly  # type: ignore[method-assign]  # slower
    sessions = EndedSessions(shared, "/tasks", clock=clock)
    assert await asyncio.gather(*(sessions.includes(session()) for _ in range(10))) == [False] * 10
    assert shared.reads <= 2
