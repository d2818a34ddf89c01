"""Task classes: abstract bases, mixins, attributes inherited and overridden, registered classes and instances."""

from celery import Celery, Task

from compat.harness import outcome, said, say, show, worker

app = Celery("inheritance")


class Logged:
    def before_start(self, task_id, args, kwargs):
        say(type(self).__name__, "before_start", args)
        super().before_start(task_id, args, kwargs)

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        say(type(self).__name__, "after_return", status, retval)
        super().after_return(status, retval, task_id, args, kwargs, einfo)


class Base(Logged, Task):
    abstract = True
    max_retries = 7
    rate = 1.5
    ignore_result = False
    _cache = None

    @property
    def cache(self):
        if self._cache is None:
            say("cache made")
            self._cache = {}
        return self._cache

    def on_success(self, retval, task_id, args, kwargs):
        say("Base.on_success", retval)


class Special(Base):
    abstract = True
    max_retries = 2

    def on_success(self, retval, task_id, args, kwargs):
        super().on_success(retval, task_id, args, kwargs)
        say("Special.on_success", self.rate)


class Written(Special):
    name = "inheritance.written"
    rate = 3

    def run(self, n):
        return n * self.rate


class Plain(Task):
    def run(self):
        return self.name


written = app.register_task(Written())
plain = app.register_task(Plain)


@app.task(base=Special, rate=9)
def decorated(n):
    return n + 1


@app.task(base=Base, bind=True)
def cached(self, key):
    self.cache.setdefault(key, len(self.cache))
    return self.cache[key], self.max_retries, self.rate


class Callable(Task):
    def __call__(self, *args, **kwargs):
        say("__call__", args, self.request.called_directly)
        return ["called", self.run(*args, **kwargs)]


@app.task(base=Callable)
def wrapped(n):
    return n


def main():
    print(written.name, plain.name, decorated.max_retries, decorated.rate, cached.rate, written.max_retries)
    print(
        isinstance(decorated, Special),
        isinstance(decorated, app.Task),
        issubclass(Special, Task),
        type(written) is Written,
    )
    print(decorated.abstract, type(decorated).__mro__[1].__name__, decorated.__module__, decorated.__name__)
    print(wrapped(1), wrapped.apply((2,)).get(), wrapped.run(3), outcome(Task().run))
    print(
        app.tasks["inheritance.written"] is written,
        sorted(n for n in app.tasks if n.startswith("inheritance.")),
    )
    with worker():
        print(
            written.delay(2).get(timeout=10),
            plain.delay().get(timeout=10),
            decorated.delay(1).get(timeout=10),
        )
        print(
            cached.delay("a").get(timeout=10),
            cached.delay("b").get(timeout=10),
            cached.delay("a").get(timeout=10),
        )
        print(wrapped.delay(5).get(timeout=10))
    show(said())
