"""The rows about shared queues: what a claim costs, and how long a task waits for a worker in another process."""

from __future__ import annotations

from benchmarks.suite.kinds import CPU, OURS, SERVERS, Case, Row, Server, on_server, probe, read, to_reference, workload


def _cost(server: Server) -> Row:
    return Row(
        name=f"pool-cost-{server}",
        what=f"such a task on {SERVERS[server]}, beside one of a queue that is not shared",
        unit="µs of CPU",
        cases=(
            workload(OURS, f"pool-{server}", 4_000, server=server),
            workload("not shared", server, 6_000, server=server),
        ),
        figure=CPU,
        ratio=to_reference,
    )


def _waits(server: Server, *peers: str) -> tuple[Row, Row]:
    def case(label: str, how: str, *, peer: bool = False) -> Case:
        return probe(label, "start", f"{how}-{server}", 200, 3, peer=peer, server=server)

    cases = [case(OURS, "pool"), case("without notification", "poll"), *(case(peer, peer, peer=True) for peer in peers)]
    if server == "postgres":
        cases.insert(1, case("in a transaction", "transaction"))
    what = f"from the commit of a task to its start in an idle worker, on {SERVERS[server]}"

    def row(name: str, what: str, figure: str) -> Row:
        return Row(name=name, what=what, unit="ms", cases=tuple(cases), figure=read(figure))

    name = f"commit-to-start-{server}"
    return row(name, f"{what}, median", "p50_ms"), row(f"{name}-p99", "its 99th percentile", "p99_ms")


_POOLED = "a task of a shared queue, with gift and claim,"

POOL_ROWS: tuple[Row, ...] = (
    on_server("pool-postgres", "postgres", 4_000, _POOLED, "procrastinate", "pgqueuer"),
    on_server("pool-redis", "redis", 4_000, _POOLED, "saq", "arq", "taskiq", "celery"),
    _cost("postgres"),
    _cost("redis"),
    *_waits("postgres", "procrastinate"),
    *_waits("redis", "saq", "celery"),
)
