"""A worker's life in signals, from configuration to shutdown."""

from celery import Celery, signals

from compat.harness import said, say, show, worker

app = Celery("worker_life")


@signals.celeryd_init.connect
def init(sender, instance, conf, options, **kwargs):
    say("celeryd_init", sender, conf.task_default_queue, options["concurrency"])
    conf.worker_prefetch_multiplier = 1
    conf.my_setting = "set by celeryd_init"


@signals.celeryd_init.connect(sender="another@h")
def init_of_another(**kwargs):
    say("not for this worker")


@signals.celeryd_after_setup.connect
def after_setup(sender, instance, conf, **kwargs):
    say("celeryd_after_setup", sender, instance.hostname)
    instance.app.amqp.queues.select_add("direct." + sender)


@signals.import_modules.connect
def importing(sender, **kwargs):
    say("import_modules", sender.main)


@signals.worker_init.connect
def worker_init(sender, **kwargs):
    say("worker_init", sender.hostname)


@signals.worker_before_create_process.connect
def before_create_process(**kwargs):
    say("worker_before_create_process")


@signals.worker_process_init.connect
def process_init(sender, **kwargs):
    say("worker_process_init", sender)


@signals.worker_ready.connect
def ready(sender, **kwargs):
    say("worker_ready", type(sender).__name__, sender.hostname, sender.app.main)


@signals.worker_shutting_down.connect
def shutting_down(sender, sig, how, exitcode, **kwargs):
    say("worker_shutting_down", sender, sig, how, exitcode)


@signals.worker_process_shutdown.connect
def process_shutdown(**kwargs):
    say("worker_process_shutdown")


@signals.worker_shutdown.connect
def shutdown(sender, **kwargs):
    say("worker_shutdown", sender.hostname)


@app.task
def look():
    return app.conf.get("my_setting")


def main():
    with worker("-n", "w@h"):
        print(look.delay().get(timeout=10), look.apply_async(queue="direct.w@h").get(timeout=10))
    show(line for line in said() if not line.startswith("worker_process"))
    show(sorted(line for line in said() if line.startswith("worker_process")))
