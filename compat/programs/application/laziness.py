"""Nothing is configured or registered before it is needed; the hooks tell when that is."""

from celery import Celery

app = Celery("laziness")


@app.task
def early():
    return early.max_retries


@app.on_configure.connect
def configuring(sender, **kwargs):
    print("on_configure", sender.main)


@app.on_after_configure.connect
def configured(sender, source, **kwargs):
    print("on_after_configure", sender.main, source.task_default_queue)


@app.on_after_finalize.connect
def finalized(sender, **kwargs):
    print("on_after_finalize", sender.main, sender.finalized)


def main():
    print("configured", app.configured, "finalized", app.finalized)
    app.conf.task_default_queue = "set-early"
    print("configured after setting", app.configured)
    print("reading", app.conf.task_default_queue)
    print("configured", app.configured)
    print(early.name, app.finalized)
    app.finalize()

    @app.task
    def late():
        pass

    print(late.name in app.tasks, type(late).__name__, isinstance(late, app.Task))
    strict = Celery("strict", autofinalize=False, set_as_current=False)

    @strict.task
    def never():
        pass

    try:
        never.name
    except RuntimeError as exc:
        print("RuntimeError", exc)
    with Celery("brief", set_as_current=False) as brief:
        print(brief.main)
