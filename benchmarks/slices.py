"""Comparing cases on a noisy machine: a process for each, all alive at once, that take turns with short slices of work.

What slows the machine then slows every case. Each figure of a slice is divided by that of the same round's baseline;
what is reported is the median over the rounds, with its quartiles.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import IO, Any

FIGURES = ("tasks_per_second", "cpu_us_per_task", "loop_cpu_us_per_task", "latency_p50_us", "latency_p99_us")
"""`cpu` is that of the whole process since its last slice: exporters work off between two slices what one has left
behind. `loop_cpu` is that of the event loop's thread within the slice."""
_PRODUCERS = 16

Round = Mapping[str, Mapping[str, Any]]


class Child:
    """A process that answers each line with one line of JSON."""

    def __init__(self, module: str, *arguments: str, **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # read when the process has ended
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=clean | environment,
        )

    def answer(self) -> Any:
        """The next line; raises `RuntimeError` with what the process has printed if there is none."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("".join(self.printed()))
        return json.loads(line)

    def ask(self, line: str) -> Any:
        """The answer to a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        """Let it finish."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def printed(self) -> list[str]:
        """The lines on standard error, once the process has ended."""
        self._process.wait()
        self._stderr.seek(0)
        return [line.decode(errors="replace") for line in self._stderr]


async def answer_slices(run_one: Callable[[], Awaitable[object]], tell: Callable[[], Mapping[str, Any]]) -> None:
    """Run tasks for as many seconds as each line of standard input says, and answer with what that took.

    `run_one` runs one task to its end, `tell` adds to the answer.
    """
    cpu = time.process_time()
    while line := await asyncio.to_thread(sys.stdin.readline):
        latencies: list[float] = []
        loop_cpu = time.thread_time()
        started = time.perf_counter()
        end = started + float(line)

        async def produce(latencies: list[float], end: float) -> None:
            while (before := time.perf_counter()) < end:
                await run_one()
                latencies.append(time.perf_counter() - before)

        await asyncio.gather(*(produce(latencies, end) for _ in range(_PRODUCERS)))
        took = time.perf_counter() - started
        loop_used = time.thread_time() - loop_cpu
        used, cpu = time.process_time() - cpu, time.process_time()
        number = len(latencies)
        latencies.sort()
        answer = {
            "tasks_per_second": number / took,
            "cpu_us_per_task": used / number * 1e6,
            "loop_cpu_us_per_task": loop_used / number * 1e6,
            "latency_p50_us": latencies[number // 2] * 1e6,
            "latency_p99_us": latencies[number * 99 // 100] * 1e6,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps({**answer, **tell()}), flush=True)


def take_turns(children: Mapping[str, Child], *, rounds: int, warm_up: int, seconds: float) -> list[Round]:
    """What each case answered in each round that counts. Another case goes first in each."""
    cases = list(children)
    answers: list[Round] = []
    for number in range(warm_up + rounds):
        first = number % len(cases)
        answers.append({case: children[case].ask(str(seconds)) for case in cases[first:] + cases[:first]})
    return answers[warm_up:]


def compare(rounds: Sequence[Round], case: str, baselines: Sequence[str]) -> dict[str, Any]:
    """The figures of a case, and each in parts of what the baselines had in the same round."""
    report: dict[str, Any] = {figure: _spread([each[case][figure] for each in rounds]) for figure in FIGURES}
    for baseline in baselines:
        if baseline != case:
            report[f"against_{baseline}"] = {
                figure: _spread([each[case][figure] / each[baseline][figure] for each in rounds]) for figure in FIGURES
            }
    return report


def _spread(values: Sequence[float]) -> dict[str, float]:
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return {"median": round(statistics.median(values), 3), "q1": round(lower, 3), "q3": round(upper, 3)}
