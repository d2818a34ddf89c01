"""beat sends the entries of beat_schedule, with their arguments, options and header."""

from celery import Celery

from compat.harness import background, said, say, scratch, show, until, worker

app = Celery("beat", beat_max_loop_interval=0.2)
app.conf.beat_schedule = {
    "often": {
        "task": "beat.note",
        "schedule": 0.5,
        "args": ("often",),
        "kwargs": {"k": 1},
        "options": {"priority": 4, "queue": "other"},
    },
    "never": {"task": "beat.note", "schedule": 86400.0, "args": ("never",)},
}


@app.on_after_configure.connect
def setup(sender, **kwargs):
    sender.add_periodic_task(0.7, note.s("added"), name="added by hand")


@app.task(bind=True)
def note(self, word, **kwargs):
    info = self.request.delivery_info
    say(word, kwargs, info["routing_key"], info["priority"], (self.request.headers or {}).get("celery_beat_task"))


def main():
    with worker("-Q", "celery,other"):
        with background("beat", "-s", scratch("schedule"), "-l", "INFO"):
            until(lambda: sum("often" in line for line in said()) > 2 and sum("added" in line for line in said()) > 1)
    show(sorted(set(said())))
    print(sorted(app.conf.beat_schedule))
