"""inspect asks running workers about themselves; with nobody there it returns None."""

from pathlib import Path

from celery import Celery

from compat.harness import said, say, scratch, show, until, worker

app = Celery("inspection")


@app.task(rate_limit="100/s")
def blocked():
    say("started")
    until(Path(scratch("go")).exists)
    return "done"


@app.task
def plain(*args):
    return args


def main():
    inspect = app.control.inspect(timeout=2)
    print(inspect.ping(), app.control.ping(timeout=0.2))
    with worker("-n", "w@h", "-Q", "celery,other"):
        print(
            inspect.ping(),
            app.control.ping(timeout=2),
            app.control.inspect(["w@h"], timeout=2).ping(),
            app.control.inspect(["x@y"], timeout=0.3).ping(),
        )
        print(inspect.registered(), inspect.registered_tasks() == inspect.registered())
        print(inspect.registered("max_retries"))
        print(inspect.active(), inspect.reserved(), inspect.scheduled(), inspect.revoked())
        running = blocked.delay()
        said(1)
        waiting = plain.delay(1)
        later = plain.apply_async((2,), {}, countdown=600, priority=6)
        until(lambda: inspect.scheduled()["w@h"])
        (active,) = inspect.active()["w@h"]
        show(
            f"{key} = {active[key] if key not in ('time_start', 'worker_pid') else type(active[key]).__name__}"
            for key in sorted(active)
        )
        print([request["id"] == waiting.id for request in inspect.reserved()["w@h"]])
        (entry,) = inspect.scheduled()["w@h"]
        print(sorted(entry), entry["priority"], entry["request"]["id"] == later.id, entry["request"]["args"])
        for result in (running, waiting, later):
            print([state for state, _ in inspect.query_task(result.id)["w@h"].values()])
        print(inspect.query_task("no-such-id"))
        later.revoke()
        until(lambda: inspect.revoked()["w@h"])
        print(inspect.revoked()["w@h"] == [later.id])
        Path(scratch("go")).touch()
        running.get(timeout=10), waiting.get(timeout=10)
        stats = inspect.stats()["w@h"]
        print(
            stats["total"],
            stats["pool"]["max-concurrency"],
            len(stats["pool"]["processes"]),
            isinstance(stats["uptime"], int),
            stats["prefetch_count"],
        )
        print([queue["name"] for queue in inspect.active_queues()["w@h"]], sorted(inspect.active_queues()["w@h"][0]))
        print(
            inspect.conf()["w@h"].get("include"),
            isinstance(inspect.clock()["w@h"]["clock"], int),
            "ok" in inspect.report()["w@h"],
        )
        print(inspect.conf(with_defaults=True)["w@h"]["task_default_queue"])
