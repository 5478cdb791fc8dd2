"""What the service counts, in the text format that Prometheus scrapes (version 0.0.4)."""

import bisect
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "searchr1_retriever_"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Counter:
    """Totals by the values of `labels`; safe to use from several threads."""

    def __init__(self, name: str, description: str, labels: Sequence[str] = ()) -> None:
        self._head = _head(name, description, "counter")
        self._name, self._labels = PREFIX + name, tuple(labels)
        self._totals: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}
        self._lock = threading.Lock()

    def add(self, amount: float = 1.0, **labels: str) -> None:
        """Count `amount` more under these labels."""
        key = tuple(labels[name] for name in self._labels)
        with self._lock:
            self._totals[key] = self._totals.get(key, 0.0) + amount

    def lines(self) -> Iterator[str]:
        """Return the lines of the exposition."""
        with self._lock:
            totals = sorted(self._totals.items())
        yield from self._head
        for key, total in totals:
            yield sample(self._name, dict(zip(self._labels, key, strict=True)), total)


class Histogram:
    """How many observations were at most as large as each bound; safe to use from several threads."""

    def __init__(self, name: str, description: str, bounds: Sequence[float]) -> None:
        self._head = _head(name, description, "histogram")
        self._name, self._bounds = PREFIX + name, tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Count one observation."""
        with self._lock:
            self._counts[bisect.bisect_left(self._bounds, value)] += 1
            self._sum += value

    def lines(self) -> Iterator[str]:
        """Return the lines of the exposition; buckets are cumulative."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        yield from self._head
        below = 0
        for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
            below += count
            yield sample(f"{self._name}_bucket", {"le": _number(bound)}, below)
        yield sample(f"{self._name}_sum", {}, total)
        yield sample(f"{self._name}_count", {}, below)


@dataclass(frozen=True, slots=True)
class Reading:
    """A number that somebody else keeps, as it stands now."""

    name: str
    kind: Literal["gauge", "counter"]
    description: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


class RetrieverMetrics:
    """Every number of the service; their meaning is in docs/metrics.md."""

    def __init__(self) -> None:
        self.requests = Counter("requests_total", "Requests answered.", ("path", "status"))
        self.queries = Counter("queries_total", "Queries of accepted requests.")
        self.errors = Counter("errors_total", "Requests that got no passages.", ("reason",))
        self.request_seconds = Histogram("request_seconds", "Time from a request to its answer.", SECONDS)
        self.search_seconds = Histogram("search_seconds", "Time of a batch in the engine.", SECONDS)
        self.batch_queries = Histogram("batch_queries", "Queries of a batch.", BATCH_SIZES)

    def text(self, readings: Sequence[Reading]) -> str:
        """Return the exposition of what was counted here and of further `readings`."""
        lines = [line for metric in vars(self).values() for line in metric.lines()]
        for reading in readings:
            lines += _head(reading.name, reading.description, reading.kind)
            lines.append(sample(PREFIX + reading.name, reading.labels, reading.value))
        return "\n".join(lines) + "\n"


def sample(name: str, labels: Mapping[str, str], value: float) -> str:
    """Return one line of the exposition."""
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {_number(value)}" if inside else f"{name} {_number(value)}"


def _head(name: str, description: str, kind: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {description}", f"# TYPE {PREFIX}{name} {kind}"]


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
