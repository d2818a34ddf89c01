"""The guide's avoided deadlock: a chain instead of waiting for subtasks, with results handed on between tasks"""

from celery import Celery, chain, chord, group

from compat.harness import outcome, worker

app = Celery("canvas_in_workers")


@app.task
def fetch_page(url):
    return f"<{url}>"


@app.task
def parse_page(page):
    return {"url": page.strip("<>"), "length": len(page)}


@app.task
def store_page_info(info, url):
    return [url, info]


@app.task(bind=True)
def update_page_info(self, url):
    ran = chain(fetch_page.s(url), parse_page.s(), store_page_info.s(url))()
    return {"as_tuple": ran.as_tuple(), "children": len(self.request.children)}


@app.task
def waits_inside(url):
    return fetch_page.delay(url).get(timeout=5)


@app.task
def waits_allowed(url):
    from celery.result import allow_join_result

    with allow_join_result():
        return fetch_page.delay(url).get(timeout=20)


@app.task
def xsum(numbers):
    return sum(numbers)


@app.task(bind=True)
def fans_out(self, n):
    sent = chord((length.s(i) for i in range(n)), xsum.s())()
    return sent.id


@app.task
def length(n):
    return n


def main():
    from celery.result import result_from_tuple

    with worker("-c", "2"):
        said = update_page_info.delay("example.com").get(timeout=20)
        print(result_from_tuple(said["as_tuple"], app=app).get(timeout=20), said["children"])
        print(outcome(waits_inside.delay("a").get, timeout=20).partition("!")[0])
        print(waits_allowed.delay("b").get(timeout=20))
        print(app.AsyncResult(fans_out.delay(5).get(timeout=20)).get(timeout=20))
        print(group(length.s(i) for i in range(3)).skew(start=0, stop=1, step=0.1)().get(timeout=20))
        print(length.chunks(zip(range(6)), 2).group().skew(start=0, stop=1)().get(timeout=20))
        print((group(length.s(i) for i in range(4)) | xsum.s()).delay().get(timeout=20))
