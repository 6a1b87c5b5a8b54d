"""Figures for Prometheus at `/metrics`: requests, tokens, times, and how full the engines are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from herdbook.inference.scheduler import Load

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

PATHS = (
    "/v1/models",
    "/v1/completions",
    "/v1/chat/completions",
    "/tokenize",
    "/detokenize",
    "/health",
    "/metrics",
    "/",
)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.requests = self._counter(
            "requests", "HTTP requests answered; 499: the client left first", "path", "status"
        )
        self.request_seconds = self._histogram("request_seconds", "Seconds from a request to its answer's end", "path")
        self.first_token = self._histogram("first_token_seconds", "Seconds from a request to its first token", "model")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts read", "model")
        self.cached_tokens = self._counter(
            "cached_prompt_tokens", "Tokens of prompts found in the prefix cache", "model"
        )
        self.drawn_tokens = self._counter("generated_tokens", "Tokens drawn", "model")
        self.answers = self._counter("answers", "Answers that ended, by how", "model", "reason")
        self.refused = self._counter("refused", "Requests refused because too much was asked at once", "model")
        self.failures = self._counter("engine_failures", "Steps of an engine that raised an error", "model")

    def _counter(self, name: str, help_line: str, *labels: str) -> Counter:
        return Counter(f"herdbook_{name}", help_line, labels, registry=self.registry)

    def _histogram(self, name: str, help_line: str, *labels: str) -> Histogram:
        return Histogram(f"herdbook_{name}", help_line, labels, registry=self.registry, buckets=SECONDS)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an HTTP request; paths that are no routes are counted together."""
        known = path if path in PATHS else "other"
        self.requests.labels(known, str(status)).inc()
        self.request_seconds.labels(known).observe(seconds)

    def watch(self, loads: Mapping[str, Load]) -> None:
        """Show from now on how full these engines are."""
        self.registry.register(_Loads(loads))

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)


class _Loads:
    """Reads the engines' loads when the figures are asked for."""

    def __init__(self, loads: Mapping[str, Load]) -> None:
        self.loads = loads

    def describe(self) -> list[Metric]:
        """Nothing beforehand."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One figure after the other, a sample per model."""
        for name, help_line in (
            ("running", "Answers being written"),
            ("waiting", "Answers waiting for room"),
            ("blocks_used", "Blocks of the key/value cache in use"),
            ("blocks", "Blocks of the key/value cache"),
            ("guessed", "Tokens guessed by speculative decoding"),
            ("guessed_right", "Guesses that were right"),
        ):
            kind = CounterMetricFamily if name.startswith("guessed") else GaugeMetricFamily
            gauge = kind(f"herdbook_{name}", help_line, labels=["model"])
            for model, load in dict(self.loads).items():
                gauge.add_metric([model], getattr(load, name))
            yield gauge
