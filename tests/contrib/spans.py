"""OpenTelemetry's spans of a watched program: written down where they end, and read back as a tree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from tests.contrib import watched
from tests.support import postgres


class FileExporter(SpanExporter):
    """Appends what a test wants to know of each span to the program's reports."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            watched.write(
                {
                    "name": span.name,
                    "kind": span.kind.name,
                    "trace": span.context.trace_id,
                    "id": span.context.span_id,
                    "parent": span.parent.span_id if span.parent else None,
                    "links": [link.context.span_id for link in span.links],
                    "status": span.status.status_code.name,
                    "events": [event.name for event in span.events],
                    "exceptions": [e.attributes["exception.type"] for e in span.events if e.name == "exception"],
                    "attributes": dict(span.attributes),
                }
            )
        return SpanExportResult.SUCCESS


class Spans:
    """All spans of a program's producer and worker, and what the producer has seen."""

    def __init__(self, module: str, spans: list[dict[str, Any]], seen: dict[str, Any]) -> None:
        self.all = [{**span, "name": span["name"].replace(f"{module}.", "")} for span in spans]
        self.seen = seen

    def root(self, name: str) -> dict[str, Any]:
        (span,) = [span for span in self.named(name) if span["parent"] is None]
        return span

    def tree(self, root: str) -> Any:
        """The names of the spans below the root of this name, by name."""
        return self._below(self.root(root))

    def _below(self, parent: dict[str, Any]) -> list[Any]:
        children = [span for span in self.all if span["parent"] == parent["id"]]
        assert {span["trace"] for span in children} <= {parent["trace"]}
        return sorted([span["name"], *self._below(span)] for span in children)

    def named(self, name: str) -> list[dict[str, Any]]:
        return [span for span in self.all if span["name"] == name]

    def orphans(self) -> list[str]:
        """The names of the spans whose parent nobody has reported."""
        known = {None, *(span["id"] for span in self.all)}
        return [span["name"] for span in self.all if span["parent"] not in known]


def collected(module: str, directory: Path, database: str) -> Spans:
    """Run the program's producer against a worker of its own."""
    postgres.empty(database)
    with watched.worker_of(module, directory, database) as (worker, environ):
        seen = watched.produce(module, environ)
        spans = watched.reports(environ)
        assert "Failed to detach context" not in worker.output()
    return Spans(module, spans, seen)
