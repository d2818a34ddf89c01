"""autoretry_for with back-off and jitter: the countdowns asked for, from options, base class and retry_kwargs."""

from celery import Celery, Task
from celery.signals import task_retry

from compat.harness import outcome

app = Celery("backoff", task_always_eager=False)


class Patient(Task):
    autoretry_for = (ValueError,)
    max_retries = 4
    retry_backoff = 2
    retry_backoff_max = 9
    retry_jitter = False


asked = []


@task_retry.connect
def retried(request, reason, **kwargs):
    asked.append(reason.when)


def make(**options):
    @app.task(bind=True, name=f"backoff.{sorted(options)}", **options)
    def body(self):
        raise ValueError("again")

    return body


def main():
    for options in (
        {"autoretry_for": (ValueError,), "retry_backoff": True, "retry_jitter": False, "max_retries": 4},
        {"autoretry_for": (ValueError,), "retry_backoff": 3, "retry_jitter": False, "max_retries": 4},
        {
            "autoretry_for": (ValueError,),
            "retry_backoff": True,
            "retry_backoff_max": 3,
            "retry_jitter": False,
            "max_retries": 4,
        },
        {"autoretry_for": (ValueError,), "retry_kwargs": {"max_retries": 2, "countdown": 5}},
        {"autoretry_for": (ValueError,), "retry_kwargs": {"max_retries": 1}, "default_retry_delay": 11},
        {"base": Patient},
        {"base": Patient, "retry_backoff": False, "default_retry_delay": 4},
        {"base": Patient, "dont_autoretry_for": (ValueError,)},
        {"base": Patient, "retry_backoff": 0.5, "max_retries": 2},
    ):
        task = make(**options)
        asked.clear()
        print(
            sorted((k, v) for k, v in options.items() if k != "base" and "for" not in k),
            outcome(task.apply().get),
            asked,
        )
    jittered = make(autoretry_for=(ValueError,), retry_backoff=8, retry_jitter=True, max_retries=3)
    asked.clear()
    outcome(jittered.apply().get)
    print(len(asked), all(0 <= when <= 8 * 2**n for n, when in enumerate(asked)))
