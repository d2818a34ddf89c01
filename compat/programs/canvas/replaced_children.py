"""What a task that was replaced shows: its own children, and that it is still a child of the task before it"""

from celery import Celery, chain, chord, group

from compat.harness import worker

app = Celery("replaced_children")


@app.task
def give():
    return 1


@app.task
def add(x, y):
    return x + y


@app.task
def total(values):
    return sum(values)


KINDS = {
    "task": lambda x: add.s(x, 10),
    "chain": lambda x: chain(add.s(x, 10), add.s(20)),
    "chord": lambda x: chord([add.s(x, 10), add.s(x, 20)], total.s()),
    "group": lambda x: group(add.s(x, 10), add.s(x, 20)),
    "group and task": lambda x: group(add.s(x, 10), add.s(x, 20)) | total.s(),
}


@app.task(bind=True)
def becomes(self, x, kind):
    return self.replace(KINDS[kind](x))


@app.task
def end(x):
    return x


def names(children, known):
    return [known.get(child.id, type(child).__name__) for child in children]


def main():
    with worker("--concurrency=1"):
        for kind in KINDS:
            result = chain(give.s(), becomes.s(kind), end.s()).delay()
            replaced, first = result.parent, result.parent.parent
            known = {result.id: "end", replaced.id: "replaced", first.id: "give"}
            print(kind, result.get(timeout=20))
            print("  children of give:", names(first.children, known))
            print("  children of replaced:", names(replaced.children, known))
            linked = give.apply_async(link=becomes.s(kind).set(task_id=f"link {kind}"))
            app.AsyncResult(f"link {kind}").get(timeout=20)
            known[f"link {kind}"] = "callback"
            print("  children with a callback:", names(linked.children, known))
