"""The program of ours in a mixed fleet."""

from __future__ import annotations

from pgtasks import Celery
from tests.kombu.common import declare

app = Celery("ours")
app.conf.worker_send_task_events = True
declare(app)
