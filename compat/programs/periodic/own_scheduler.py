"""beat -S takes a scheduler of one's own, which decides what is due"""

from celery import Celery
from celery.beat import ScheduleEntry, Scheduler

from compat.harness import background, said, say, show

app = Celery("own_scheduler")


@app.task
def ticked(word):
    return word


class Entry(ScheduleEntry):
    def is_due(self):
        return (True, 60) if self.total_run_count == 0 else (False, 60)


class MyScheduler(Scheduler):
    Entry = Entry

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_interval = 1

    def setup_schedule(self):
        self.merge_inplace({"mine": {"task": "own_scheduler.ticked", "schedule": 30, "args": ("mine",)}})

    def apply_async(self, entry, producer=None, advance=True, **kwargs):
        say("sending", entry.name, entry.task, entry.args)
        return super().apply_async(entry, producer=producer, advance=advance, **kwargs)

    @property
    def info(self):
        return "mine"


def main():
    with background("beat", "-S", "own_scheduler:MyScheduler"):
        show(said(at_least=1))
