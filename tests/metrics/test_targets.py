"""Several targets share a ledger: the sum of their pages is what happened, whatever becomes of each."""

from __future__ import annotations

from taskflow_otel.exporters.signals import INSTANCES
from taskflow_otel.metrics.elsewhere import SCRAPED_WITHIN
from taskflow_otel.metrics.targets import FIRST, KEPT, Targets
from taskflow_otel.model.vocabulary import InstanceKind
from taskflow_otel.testing.clock import FakeClock
from tests.metrics.worker import Unsteady, Worker

PORTS = ("host:8000", "host:8001", "host:8002")


async def total(*workers: Worker) -> float:
    """The finished tasks on the pages of these targets, added up."""
    pages = [await worker.finished() for worker in workers]
    return sum(own + sum(others.values()) for own, others in pages)


async def test_each_target_shows_the_counts_of_its_own_workers(backend: Unsteady, clock: FakeClock) -> None:
    workers = [await Worker(f"{port}-{n}", backend, clock, port).start() for port in PORTS[:2] for n in range(2)]
    for number, worker in enumerate(workers, start=1):
        worker.run(number)
    await clock.advance(1.5)
    assert [await worker.finished() for worker in workers] == [(3.0, {}), (3.0, {}), (7.0, {}), (7.0, {})]


async def test_a_killed_worker_stays_in_the_counts_of_its_target(backend: Unsteady, clock: FakeClock) -> None:
    one, other, beside = [
        await Worker(f"w{n}", backend, clock, port).start() for n, port in enumerate((PORTS[0], *PORTS[:2]))
    ]
    for worker in (one, other, beside):
        worker.run(2)
    await clock.advance(1.5)
    await one.die()
    for _ in range(3):
        assert [await worker.finished() for worker in (other, beside)] == [(4.0, {}), (2.0, {})]
        await clock.advance(2.0)


async def test_the_counts_of_a_vanished_target_are_shown_once_and_apart(backend: Unsteady, clock: FakeClock) -> None:
    pods = [await Worker(port, backend, clock, port).start() for port in PORTS]
    for pod in pods:
        pod.run(5)
        await pod.scrape()
    gone, *rest = pods
    await gone.die()
    for _ in range(3):
        (first, elsewhere), (second, nothing) = [await pod.finished() for pod in rest]
        assert (first, second, nothing) == (5.0, 5.0, {})
        assert list(elsewhere.values()) == [5.0]
        await clock.advance(2.0)
    # A pod in its place is a target of its own.
    new = await Worker("new", backend, clock, "host:8003").start()
    new.run(1)
    assert await new.finished() == (1.0, {})
    assert await total(*rest, new) == 16.0


async def test_living_processes_are_counted_once_over_all_targets(backend: Unsteady, clock: FakeClock) -> None:
    async def living() -> list[float]:
        await clock.advance(1.5)
        return [(await worker.scrape())[INSTANCES.name] for worker in workers]

    addresses = (PORTS[0], PORTS[0], PORTS[1], PORTS[2])
    workers = [await Worker(f"w{n}", backend, clock, port).start() for n, port in enumerate(addresses)]
    assert await living() == [2.0, 2.0, 1.0, 1.0]
    await workers.pop(0).die()
    assert await living() == [1.0, 1.0, 1.0]
    await workers.pop(1).leave()
    assert await living() == [1.0, 1.0]
    # Its last known number while the backend is away: the process itself is not.
    backend.away = True
    assert await living() == [1.0, 1.0]


async def test_workers_and_web_processes_are_counted_apart(backend: Unsteady, clock: FakeClock) -> None:
    kinds = (InstanceKind.WEB, InstanceKind.WORKER, InstanceKind.WORKER)
    web, *others = [await Worker(f"w{n}", backend, clock, kind=kind).start() for n, kind in enumerate(kinds)]

    async def living() -> dict[str, float]:
        return {one.labels["kind"]: one.value for one in await web.samples() if one.name == INSTANCES.name}

    assert await living() == {"web": 1.0, "worker": 2.0}
    for other in others:
        await other.die()
    await clock.advance(1.5)
    assert await living() == {"web": 1.0}


async def test_a_target_that_comes_back_continues_and_is_no_longer_shown_elsewhere(
    backend: Unsteady, clock: FakeClock
) -> None:
    one, other = [await Worker(port, backend, clock, port).start() for port in PORTS[:2]]
    for pod in (one, other):
        pod.run(5)
        await pod.scrape()
    for life in range(1, 4):
        await other.die()
        await clock.advance(1.5)
        own, elsewhere = await one.finished()
        assert (own, list(elsewhere.values())) == (5.0, [5.0 + life - 1])
        other = await Worker(f"life{life}", backend, clock, PORTS[1]).start()
        other.run(1)
        assert await other.finished() == (5.0 + life, {})
        assert await one.finished() == (5.0, {})


async def test_elsewhere_has_another_value_whenever_counts_join_or_leave_it(
    backend: Unsteady, clock: FakeClock
) -> None:
    pods = [await Worker(f"pod{n}", backend, clock, f"pod{n}:80").start() for n in range(4)]
    for pod in pods:
        pod.run(1)
        await pod.scrape()
    carrier = pods[0]
    seen: dict[str, float] = {}
    for pod in pods[1:]:
        await pod.die()
        for _ in range(3):
            _, elsewhere = await carrier.finished()
            for label, value in elsewhere.items():
                assert seen.setdefault(label, value) == value
            await clock.advance(1.0)
    assert sorted(seen.values()) == [1.0, 2.0, 3.0]


async def test_when_the_carrier_vanishes_another_target_carries(backend: Unsteady, clock: FakeClock) -> None:
    pods = [await Worker(port, backend, clock, port).start() for port in PORTS]
    for pod in pods:
        pod.run(2)
        await pod.scrape()
    for left in (2, 1):
        await pods.pop(0).die()
        await clock.advance(1.5)
        assert await total(*pods) == 6.0
        assert len(pods) == left


async def test_a_service_that_moves_as_a_whole_continues_at_its_new_address(
    backend: Unsteady, clock: FakeClock
) -> None:
    for life, port in enumerate((*PORTS, PORTS[0]), start=1):
        pod = await Worker(f"life{life}", backend, clock, port).start()
        pod.run(10)
        assert await pod.finished() == (10.0 * life, {})
        await (pod.die() if life % 2 else pod.leave())


async def test_a_program_that_serves_no_page_is_counted_by_the_carrier(backend: Unsteady, clock: FakeClock) -> None:
    pod = await Worker("pod", backend, clock).start()
    script = await Worker("script", backend, clock, "").start()
    pod.run(1)
    script.run(3)
    assert await pod.finished() == (1.0, {})
    await clock.advance(SCRAPED_WITHIN.total_seconds())
    assert await total(pod) == 4.0
    script.run(1)
    await clock.advance(1.5)
    own, during = await pod.finished()
    await script.leave()
    assert (own, list(during.values())) == (1.0, [4.0])
    for _ in range(3):
        own, after = await pod.finished()
        assert (own, list(after.values())) == (1.0, [4.0])
        await clock.advance(2.0)
    assert set(after) != set(during)


async def test_a_target_that_no_one_scrapes_is_counted_by_one_that_is_scraped(
    backend: Unsteady, clock: FakeClock
) -> None:
    unseen = await Worker("unseen", backend, clock, PORTS[1]).start()
    pod = await Worker("pod", backend, clock, PORTS[0]).start()
    unseen.run(2)
    pod.run(1)
    assert await pod.finished() == (1.0, {})
    await clock.advance(SCRAPED_WITHIN.total_seconds() + 5)
    own, elsewhere = await pod.finished()
    assert (own, list(elsewhere.values())) == (1.0, [2.0])
    # From its first scrape on, it shows its counts itself.
    assert await unseen.finished() == (2.0, {})
    assert await pod.finished() == (1.0, {})


async def test_a_page_that_is_asked_for_without_a_server_is_one_of_its_process(
    backend: Unsteady, clock: FakeClock
) -> None:
    one = await Worker("one", backend, clock, "").start()
    one.run(2)
    assert await one.finished() == (2.0, {})


def test_a_new_address_gets_a_name_of_its_own_while_another_target_lives() -> None:
    table = Targets().claim("a", ())
    assert table.names == {"a": FIRST}
    assert table.claim("b", {FIRST}).names == {"a": FIRST, "b": "2"}
    assert table.claim("b", ()).names == {"b": FIRST}
    assert table.claim("a", {FIRST}) == table
    assert Targets.load(table.dump()) == table


def test_few_vanished_targets_keep_their_sums_apart() -> None:
    table = Targets()
    for number in range(KEPT + 5):
        table = table.claim(f"pod-{number}", {FIRST})
    assert table.too_many({FIRST}) == ["2", "3", "4", "5"]
    assert "2" not in table.without("2").names.values()


async def test_the_counts_of_many_replaced_pods_stay_complete(backend: Unsteady, clock: FakeClock) -> None:
    carrier = await Worker("carrier", backend, clock).start()
    await carrier.scrape()
    for number in range(KEPT + 5):
        pod = await Worker(f"pod{number}", backend, clock, f"pod{number}:80").start()
        pod.run(1)
        await pod.scrape()
        await pod.die()
        await clock.advance(2.0)
        assert await total(carrier) == number + 1.0
    assert len(await backend.settings("metrics:gone")) <= KEPT + 3
