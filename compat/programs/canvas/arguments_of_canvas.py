"""Partial arguments, keyword arguments and options given to a whole canvas."""

from celery import Celery, chain, chord, group

from compat.harness import worker

app = Celery("arguments_of_canvas")


@app.task
def echo(*args, **kwargs):
    return [list(args), kwargs]


@app.task(bind=True)
def options(self, *args):
    return (
        self.request.delivery_info["priority"],
        self.request.headers,
        self.request.timelimit,
        self.request.delivery_info["routing_key"],
    )


def main():
    with worker("-Q", "celery,other"):
        print(chain(echo.s(1), echo.s(2)).delay(0, k=1).get(timeout=10))
        print(group(echo.s(1), echo.s(2)).delay(0, k=1).get(timeout=10))
        print(chord([echo.s(1), echo.s(2)], echo.s(3)).delay(0, k=1).get(timeout=10))
        print(chord([echo.s(1)])(echo.s(3), b=2).get(timeout=10))
        print((echo.si(1) | echo.si(2)).delay(0).get(timeout=10), group(echo.si(1)).delay(0).get(timeout=10))
        given = {"priority": 4, "headers": {"a": 1}, "time_limit": 50, "queue": "other"}
        result = chain(options.s(), options.s()).apply_async(**given)
        print(result.get(timeout=10), result.parent.get())
        print(group(options.s(), options.s()).apply_async(**given).get(timeout=10))
        result = chord([options.s(), options.s()], options.s()).apply_async(**given)
        print(result.get(timeout=10), result.parent.get())
        result = chain(options.s().set(priority=1), options.s().set(priority=2)).set(priority=3).apply_async()
        print(result.get(timeout=10), result.parent.get())
        print(chain(echo.s(1), echo.s(2)).clone(args=(5,)).delay().get(timeout=10))
