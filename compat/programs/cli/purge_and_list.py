"""celery purge asks unless -f, counts what it removed; list bindings and report say what there is"""

from celery import Celery

from compat.harness import command_line, show, worker

app = Celery("purge_and_list")
app.conf.task_create_missing_queues = True


@app.task
def add(x, y):
    return x + y


def main():
    for _ in range(3):
        add.delay(1, 1)
    add.apply_async((1, 1), queue="other")
    status, out, err = command_line("purge", "-f")
    print(status)
    show(out.splitlines())
    status, out, err = command_line("purge", "-f", "-Q", "other")
    print(status)
    show(out.splitlines())
    status, out, err = command_line("purge", "-f")
    show(out.splitlines())
    status, out, err = command_line("report")
    print(status, "software ->" in out, "settings ->" in out or "settings:" in out)
    with worker("-Q", "celery,other"):
        add.delay(1, 1).get(timeout=20)
