"""celery upgrade settings gives old settings their new names"""

from pathlib import Path

from celery import Celery

from compat.harness import command_line, scratch, show

app = Celery("upgrade_settings")

OLD = """\
BROKER_URL = 'amqp://'
CELERY_RESULT_BACKEND = 'rpc://'
CELERY_TASK_SERIALIZER = 'json'
CELERYD_CONCURRENCY = 4
CELERYBEAT_SCHEDULE = {}
CELERY_ALWAYS_EAGER = True
OTHER_SETTING = 1
"""


def main():
    for extra in ((), ("--django",)):
        path = Path(scratch(f"settings{len(extra)}.py"))
        path.write_text(OLD)
        status, out, err = command_line("upgrade", "settings", str(path), *extra)
        print(status, path.with_suffix(".py.orig").exists())
        show(path.read_text().splitlines())
