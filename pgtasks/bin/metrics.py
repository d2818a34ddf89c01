"""`pgtasks metrics`: serve metrics to Prometheus."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import click

from pgtasks.bin.options import CeleryCommand, CLIContext, option
from pgtasks.events.metrics import Counts, render
from pgtasks.events.receiver import forgiving
from pgtasks.exceptions import CeleryCommandException, OperationalError
from pgtasks.platforms import EX_FAILURE
from pgtasks.store import health

#: Seconds after which listening is tried again when the database was away.
AGAIN_S = 1.0


@click.command(cls=CeleryCommand)
@option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@option("--port", type=click.IntRange(0, 65535), default=9808, show_default=True, help="Port to listen on.")
@option("--once", is_flag=True, help="Print the database's metrics once, and exit.")
@click.pass_obj
def metrics(obj: CLIContext, /, host: str, port: int, once: bool) -> None:
    """Serve metrics at /metrics, in the text format of Prometheus.

    Those about tasks are counted from events, which workers send when started with -E or enabled by `pgtasks control
    enable_events`. Those about queues, workers and the database are read from the database at each scrape.
    """
    counts = Counts()
    if once:
        obj.echo(render(counts, obj.app.database.run(health.figures())), nl=False)
        return
    try:
        serving = server(obj.app, counts, host, port)
    except OSError as exc:
        raise CeleryCommandException(f"Cannot listen on {host}:{port}: {exc.strerror}.", EX_FAILURE) from exc
    threading.Thread(target=_listen, args=(obj.app, counts), name="events", daemon=True).start()
    with serving, suppress(KeyboardInterrupt):
        obj.echo(f"Metrics at http://{host}:{serving.server_port}/metrics")
        serving.serve_forever()


def server(app: Any, counts: Counts, host: str, port: int) -> ThreadingHTTPServer:
    """A server of metrics; its address is taken once this returns."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] not in ("/", "/metrics", "/health"):
                self.send_error(404, "There is only /metrics")
                return
            try:
                text = render(counts, app.database.run(health.figures()))
            except OperationalError as error:
                self.send_error(503, "The database does not answer", str(error))
                return
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: it is asked every few seconds."""

    return ThreadingHTTPServer((host, port), Page)


def _listen(app: Any, counts: Counts) -> None:
    while True:
        with suppress(OperationalError):
            app.events.Receiver(handlers={"*": forgiving(counts.count)}).capture()
        time.sleep(AGAIN_S)
