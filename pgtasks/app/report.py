"""What to include in a bug report."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from pgtasks import __version__
from pgtasks.utils.imports import qualname
from pgtasks.utils.text import mask_url

__all__ = ("bugreport",)

_REPORT = """
software -> pgtasks:{pgtasks} kombu:{kombu} py:{python}
            psycopg:{psycopg}
platform -> system:{system} arch:{arch}
            kernel version:{kernel} imp:{implementation}
loader   -> {loader}
settings -> database:{database}

{settings}
"""


def bugreport(app: Any) -> str:
    """Describe the software, the platform and the settings that were changed; secrets are masked."""
    return _REPORT.format(
        pgtasks=__version__,
        kombu=metadata.version("kombu"),
        psycopg=metadata.version("psycopg"),
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        system=platform.system(),
        arch=", ".join(part for part in platform.architecture() if part),
        kernel=platform.release(),
        loader=qualname(type(app.loader)),
        database=mask_url(app.conf.broker_url or "default"),
        settings=app.conf.humanize(),
    )
