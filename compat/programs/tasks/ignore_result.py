"""A task whose result is ignored leaves no trace, unless it fails and errors are kept."""

from celery import Celery

from compat.harness import outcome, worker

app = Celery("ignore_result")


@app.task(ignore_result=True)
def ignored():
    return 1


@app.task
def kept():
    return 1


@app.task(ignore_result=True)
def fails():
    raise ValueError("lost")


@app.task(ignore_result=True, store_errors_even_if_ignored=True)
def fails_on_record():
    raise ValueError("kept")


@app.task(bind=True, ignore_result=True, track_started=True)
def sees_flag(self):
    sees_flag.update_state(state="SEEN", meta=self.request.ignore_result)


def main():
    with worker():
        results = [ignored.delay(), kept.apply_async(ignore_result=True), ignored.apply_async(ignore_result=False)]
        failed, recorded, seen = fails.delay(), fails_on_record.delay(), sees_flag.delay()
        kept.delay().get(timeout=10)
        for result in results:
            print(result.ignored, result.get(timeout=10), result.state)
        print(failed.state, failed.get(timeout=1), failed.ignored)
        print(recorded.state, repr(recorded.result), outcome(recorded.get, timeout=1))
        print(seen.state, seen.result)
        print(app.send_task("ignore_result.kept", ignore_result=True).get(timeout=1))
