"""With track_started a running task is STARTED, with its worker and process as the result."""

from pathlib import Path

from celery import Celery

from compat.harness import said, say, scratch, until, worker

app = Celery("track_started")


@app.task(track_started=True)
def tracked():
    until(Path(scratch("go")).exists)
    return "done"


@app.task
def untracked():
    say("untracked runs")
    until(Path(scratch("go2")).exists)
    return "done"


@app.task(track_started=True, ignore_result=True)
def ignored():
    return app.AsyncResult(ignored.request.id).state


def main():
    with worker("-n", "w@h"):
        result = tracked.delay()
        until(lambda: result.state == "STARTED")
        print(result.info["hostname"], isinstance(result.info["pid"], int), sorted(result.info))
        Path(scratch("go")).touch()
        print(result.get(timeout=10))
        result = untracked.delay()
        said(at_least=1)
        print(result.state, result.info)
        Path(scratch("go2")).touch()
        print(result.get(timeout=10))
        ignored.delay()
        untracked.delay().get(timeout=10)
