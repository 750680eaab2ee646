"""The page of metrics as text, written directly: the bytes of `prometheus_client`, in a tenth of its time.

Its encoders check and escape each name and label of each line anew. A page of many series is written many times, and
only its numbers change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import accumulate
from math import inf
from threading import local

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from taskflow_otel.exporters.prometheus import exposition
from taskflow_otel.exporters.prometheus.exposition import MetricsFormat
from taskflow_otel.exporters.prometheus.values import (
    Elsewhere,
    Exemplar,
    Histogram,
    LabelValues,
    Snapshot,
    Value,
    merge,
)
from taskflow_otel.exporters.signals import ELSEWHERE, METRICS
from taskflow_otel.exporters.specs import MetricSpec, MetricType

_END = b"# EOF\n"
_PLAIN = 1_000_000
"""Whole numbers from here on are written with an exponent."""
_MOST = 50_000
"""Label texts that are kept."""


class PageWriter:
    """Writes pages. It keeps the texts of labels, which do not change."""

    def __init__(self) -> None:
        self._heads: dict[tuple[str, MetricsFormat], str] = {}
        self._labels: dict[tuple[tuple[str, ...], LabelValues], tuple[str, str, str]] = {}
        self._writing = local()

    @property
    def writing(self) -> bool:
        """Whether this thread is in `page`, which writes the library's own metrics itself."""
        return bool(getattr(self._writing, "now", False))

    def page(
        self,
        registry: CollectorRegistry,
        form: MetricsFormat,
        snapshot: Snapshot,
        *,
        elsewhere: Elsewhere | None = None,
        exemplars_after: float = 0.0,
    ) -> bytes:
        """The snapshot, and what other collectors of the registry have; see `exposition.families`.

        The collector of the library must return nothing while `writing`.
        """
        own = "".join(self._lines(snapshot, form, elsewhere, exemplars_after)).encode()
        self._writing.now = True
        try:
            return own + exposition.encode(registry, form)
        finally:
            self._writing.now = False

    def _lines(
        self, snapshot: Snapshot, form: MetricsFormat, elsewhere: Elsewhere | None, exemplars_after: float
    ) -> Iterator[str]:
        if len(self._labels) > _MOST:
            # The value of `elsewhere` changes.
            self._labels.clear()
        others: Snapshot = {} if elsewhere is None else merge(elsewhere.parts)
        after = exemplars_after if form is MetricsFormat.OPENMETRICS else inf
        for spec in METRICS:
            children = snapshot.get(spec.name)
            if children is None and spec.name not in others:
                continue
            yield self._head(spec, form)
            yield from self._samples(spec, spec.labels, (children or {}).items(), after)
            if elsewhere is not None and (beyond := others.get(spec.name)):
                marked = (((*labels, elsewhere.label), value) for labels, value in beyond.items())
                yield from self._samples(spec, (*spec.labels, ELSEWHERE), marked, inf)

    def _head(self, spec: MetricSpec, form: MetricsFormat) -> str:
        """The lines about a metric, as `prometheus_client` writes them."""
        head = self._heads.get((spec.name, form))
        if head is None:
            registry = CollectorRegistry()
            registry.register(_Described(spec))
            head = exposition.encode(registry, form).removesuffix(_END).decode()
            self._heads[spec.name, form] = head
        return head

    def _samples(
        self,
        spec: MetricSpec,
        names: tuple[str, ...],
        children: Iterable[tuple[LabelValues, Value]],
        exemplars_after: float,
    ) -> Iterator[str]:
        known, name = self._labels, spec.name
        bounds: Collection[float] = ()
        texts: list[str] = []
        for labels, value in children:
            parts = known.get((names, labels))
            if parts is None:
                parts = known[names, labels] = _parts(names, labels)
            before, behind, plain = parts
            if spec.type is MetricType.INFO:
                yield f"{name}{plain}1.0\n"
            elif not isinstance(value, Histogram):
                if spec.type is not MetricType.HISTOGRAM:
                    yield f"{name}{plain}{_number(value)}\n"
            elif spec.type is MetricType.HISTOGRAM:
                if value.bounds is not bounds:
                    bounds = value.bounds
                    texts = [*map(repr, bounds), "+Inf"]
                totals = [*accumulate(value.counts)]
                start = f"{name}_bucket{before}"
                if exemplars_after == inf or not any(value.exemplars):
                    for bound, total in zip(texts, totals, strict=True):
                        yield f"{start}{bound}{behind}{_number(total)}\n"
                else:
                    for bound, total, exemplar in zip(texts, totals, value.exemplars, strict=True):
                        shown = exemplar is not None and exemplar.timestamp > exemplars_after
                        mark = _exemplar(exemplar) if shown and exemplar is not None else ""
                        yield f"{start}{bound}{behind}{_number(total)}{mark}\n"
                yield f"{name}_count{plain}{_number(totals[-1])}\n{name}_sum{plain}{_number(value.sum)}\n"


class _Described:
    """One metric without values."""

    def __init__(self, spec: MetricSpec) -> None:
        self._spec = spec

    def collect(self) -> Iterator[Metric]:
        return exposition.describe([self._spec])


def _parts(names: tuple[str, ...], labels: LabelValues) -> tuple[str, str, str]:
    """The labels of a series: before and behind the bound of a bucket, and without one. In the order of their names."""
    pairs = sorted(zip(names, labels, strict=True))
    texts = [(name, f'{name}="{_escaped(value)}"') for name, value in pairs]
    before = "".join(f"{text}," for name, text in texts if name < "le")
    behind = "".join(f",{text}" for name, text in texts if name > "le")
    plain = ",".join(text for _, text in texts)
    return f'{{{before}le="', f'"{behind}}} ', f"{{{plain}}} " if plain else " "


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return f"{value}.0" if type(value) is int and value < _PLAIN else str(floatToGoString(value))


def _exemplar(exemplar: Exemplar) -> str:
    ids = f'span_id="{exemplar.span_id}",trace_id="{exemplar.trace_id}"'
    return f" # {{{ids}}} {floatToGoString(exemplar.value)} {exemplar.timestamp}"
