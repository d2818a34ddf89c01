"""What a worker prints when it starts."""

from __future__ import annotations

import logging
import platform
from typing import Any

from pgtasks import __version__
from pgtasks.app.builtins import BUILT_IN
from pgtasks.utils.log import mlevel
from pgtasks.utils.text import mask_url

_BANNER = """\

 {hostname} - pgtasks {version}

 {platform}

 [config]
 .> app:         {app}
 .> database:    {database}
 .> concurrency: {concurrency} ({pool})
 .> task events: {events}

 [queues]
{queues}
"""


def banner(worker: Any) -> str:
    """Describe a worker: where it connects, how much it runs at a time, which queues it consumes."""
    app = worker.app
    text = _BANNER.format(
        hostname=worker.hostname,
        version=__version__,
        platform=platform.platform(),
        app=f"{app.main or '__main__'}:{id(app):#x}",
        database=mask_url(app.database_url),
        concurrency=worker.concurrency,
        pool=worker.pool,
        events="ON" if app.conf.worker_send_task_events else "OFF (enable -E to monitor tasks in this worker)",
        queues=app.amqp.queues.format(indent=1),
    )
    level = mlevel(worker.loglevel) or logging.WARNING
    if level <= logging.INFO:
        names = sorted(name for name in app.tasks if level <= logging.DEBUG or not name.startswith(BUILT_IN))
        text += "\n [tasks]\n" + "".join(f"  . {name}\n" for name in names)
    return text
