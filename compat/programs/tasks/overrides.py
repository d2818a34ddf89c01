"""A base class may override what a task does when it is sent, retried, bound or called."""

from celery import Celery, Task, chain, group

from compat.harness import outcome, said, say, show, worker

app = Celery("overrides")


class Tenanted(Task):
    abstract = True
    tenant = "acme"

    @classmethod
    def on_bound(cls, app):
        cls.bound_to = app.main

    def apply_async(self, args=None, kwargs=None, **options):
        headers = {"tenant": self.tenant, **(options.pop("headers", None) or {})}
        return super().apply_async(args, kwargs, headers=headers, **options)

    def retry(self, *args, **kwargs):
        say("retry", sorted(kwargs))
        return super().retry(*args, **{**kwargs, "countdown": 0})

    def __call__(self, *args, **kwargs):
        say("__call__", args, self.request.called_directly)
        return super().__call__(*args, **kwargs)

    def shadow_name(self, args, kwargs, options):
        return f"shadow of {self.name}"


@app.task(base=Tenanted, bind=True, max_retries=1)
def look(self, retry=False):
    if retry and not self.request.retries:
        self.retry(countdown=600)
    return (self.request.headers or {}).get("tenant"), self.request.shadow, self.request.retries


@app.task(base=Tenanted, tenant="other", bind=True)
def other(self, *args):
    return (self.request.headers or {}).get("tenant")


@app.task
def plain(value):
    return value


def main():
    print(look.bound_to, look.tenant, other.tenant, isinstance(look, Tenanted))
    with worker():
        print(look.delay().get(timeout=10), look.s().delay().get(timeout=10), other.delay().get(timeout=10))
        print(look.apply_async(headers={"tenant": "mine"}).get(timeout=10), app.send_task(look.name).get(timeout=10))
        print(look.delay(retry=True).get(timeout=10))
        print(chain(plain.s(1), other.s())().get(timeout=10), group(other.s(), other.s())().get(timeout=10))
    print(outcome(other, 1))
    show(said())
