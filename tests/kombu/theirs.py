"""The program of Celery itself in a mixed fleet: nothing but its URLs names pgtasks."""

from __future__ import annotations

import os

from celery import Celery

from tests.kombu.common import declare

_URL = f"pgtasks+{os.environ['PGTASKS_DATABASE_URL']}"

app = Celery("theirs", broker=_URL, backend=_URL, set_as_current=False)
app.conf.worker_send_task_events = True
declare(app)
