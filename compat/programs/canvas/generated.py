"""Canvases that a generator made and a machine made smaller, each run to its end and looked at from all sides.

The recipes are in generated.jsonl; `python -m compat.generated` makes, compares and shrinks more of them.
"""

import json
import os
import re
import time
from collections import defaultdict
from pathlib import Path

import celery
from celery import Celery, chain, chord, group
from celery._state import get_current_worker_task
from celery.canvas import StampingVisitor
from celery.exceptions import Ignore, Reject
from celery.result import GroupResult

from compat.harness import said, say, worker

RECIPES = Path(os.environ.get("COMPAT_RECIPES") or Path(__file__).with_name("generated.jsonl"))
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: Quiet turns of a task that only ticks, after which nothing is left to run: one worker, one process, one queue.
TURNS = 4

app = Celery("generated")
app.conf.update(task_send_sent_event=False, worker_prefetch_multiplier=1)


class Odd(Exception):
    """Its arguments are not its message."""

    def __init__(self, label, code):
        super().__init__(label, code)
        self.code = code


# -- the tasks: p is the number of the program, l the label of the signature


def note(what, p, l, **more):
    say(json.dumps({"what": what, "p": p, "l": l, **more}))


def called(task, args, p, l, **more):
    request = task.request
    note(
        "call",
        p,
        l,
        args=args,
        id=request.id,
        root=request.root_id,
        parent=request.parent_id,
        group=request.group,
        retries=request.retries,
        stamps={name: request.stamps.get(name) for name in sorted(request.stamped_headers or ())}
        if request.stamps
        else {},
        priority=request.delivery_info.get("priority"),
        **more,
    )


@app.task(bind=True)
def ran(self, *args, p, l):
    called(self, args, p, l)
    return [l, *args]


@app.task(bind=True, ignore_result=True)
def quiet(self, *args, p, l):
    called(self, args, p, l)
    return [l, *args]


@app.task(bind=True)
def none(self, *args, p, l):
    called(self, args, p, l)


@app.task(bind=True)
def fails(self, *args, p, l, how):
    called(self, args, p, l)
    raise {
        "error": lambda: ValueError(f"{l} failed"),
        "odd": lambda: Odd(l, 7),
        "ignore": lambda: Ignore(),
        "reject": lambda: Reject(l, requeue=False),
    }[how]()


@app.task(bind=True, default_retry_delay=0)
def again(self, *args, p, l, times, give_up=False):
    goes_on = self.request.retries < times
    called(self, args, p, l, goes_on=goes_on)
    if goes_on:
        raise self.retry(countdown=0, exc=ValueError(f"{l} again"), max_retries=times)
    if give_up:
        raise self.retry(countdown=0, exc=ValueError(f"{l} gave up"), max_retries=times)
    return [l, *args]


@app.task(bind=True)
def swapped(self, *args, p, l, by):
    called(self, args, p, l)
    return self.replace(cook(by, p))


@app.task(bind=True)
def sends(self, *args, p, l, what):
    called(self, args, p, l)
    cook(what, p).apply_async()
    return [l, *args]


def series():
    """The task that calls this one for each of its items."""
    request = get_current_worker_task().request
    return {"id": request.id, "group": request.group}


@app.task
def one(item):
    p, l, value = item
    note("item", p, l, args=[value], **series())
    return [l, value]


@app.task
def pair(p, l, value):
    note("item", p, l, args=[value], **series())
    return [l, value]


@app.task(bind=True)
def told(self, task_id, *, p, l):
    note("told", p, l, of=task_id, id=self.request.id)


@app.task
def caught(request, exc, traceback, p=None, l=None):
    note("caught", p, l, of=request.id, error=f"{type(exc).__name__}: {exc}", traceback=bool(traceback))


@app.task
def tick():
    return None


# -- recipes


class Visitor(StampingVisitor):
    def on_signature(self, sig, **headers):
        return {"kind": sig.task.rpartition(".")[2], "stamped_headers": ["kind"]}

    def on_callback(self, callback, **headers):
        return {"callback": True}

    def on_errback(self, errback, **headers):
        return {"errback": True}


def cook(recipe, p):
    verb, *parts = recipe
    return VERBS[verb](p, *parts)


def _task(p, name, label, args=(), kwargs=None):
    signature = {
        "ran": ran, "quiet": quiet, "none": none, "fails": fails, "again": again, "swapped": swapped,
        "sends": sends, "told": told, "caught": caught,
    }[name]  # fmt: skip
    return signature.s(*args, p=p, l=label, **(kwargs or {}))


def _cooked(p, recipes):
    return [cook(recipe, p) for recipe in recipes]


def _linked(p, sig, callback):
    sig = cook(sig, p)
    sig.link(cook(callback, p))
    return sig


def _stamped(p, sig, headers):
    sig = cook(sig, p)
    sig.stamp(**headers) if headers else sig.stamp(Visitor())
    return sig


def _frozen(p, sig):
    sig = cook(sig, p)
    sig.freeze()
    return sig


def _immutable(p, sig):
    sig = cook(sig, p)
    sig.set_immutable(True)
    return sig


VERBS = {
    "task": _task,
    "chain": lambda p, steps: chain(*_cooked(p, steps)),
    "listed": lambda p, steps: chain(_cooked(p, steps)),
    "group": lambda p, members: group(_cooked(p, members)),
    "lazy": lambda p, members: group(cook(member, p) for member in members),
    "chord": lambda p, header, body: chord(_cooked(p, header), cook(body, p)),
    "called": lambda p, header, body: chord(group(_cooked(p, header)), body=cook(body, p)),
    "bar": lambda p, left, right: cook(left, p) | cook(right, p),
    "map": lambda p, label, count: one.map([[p, label, n] for n in range(count)]),
    "starmap": lambda p, label, count: pair.starmap([[p, label, n] for n in range(count)]),
    "chunks": lambda p, label, count, size: pair.chunks([(p, label, n) for n in range(count)], size),
    "chunked": lambda p, label, count, size: pair.chunks([(p, label, n) for n in range(count)], size).group(),
    "link": _linked,
    "on_error": lambda p, sig, errback: cook(sig, p).on_error(cook(errback, p)),
    "stamp": _stamped,
    "freeze": _frozen,
    "immutable": _immutable,
    "clone": lambda p, sig, args: cook(sig, p).clone(args=tuple(args)),
    "set": lambda p, sig, options: cook(sig, p).set(**options),
    "json": lambda p, sig: celery.signature(json.loads(json.dumps(cook(sig, p))), app=app),
}


def applied(program, p):
    """Send it; the result, or the error that sending it raised."""
    try:
        canvas = cook(program["canvas"], p)
        options = dict(program.get("options", ()))
        for key in ("link", "link_error"):
            if key in options:
                options[key] = _cooked(p, options[key])
        return canvas.apply_async(tuple(program.get("args", ())), **options)
    except Exception as exc:
        return exc


# -- looking


class Seen:
    """What is known of one program once nothing of it runs any more; ids are told by the labels that ran under them."""

    def __init__(self, notes):
        self.notes = notes
        self.labels = defaultdict(set)
        for line in notes:
            if "id" in line:
                self.labels[line["id"]].add(line["l"])
        self.groups, self.grouped = {}, set()
        for line in sorted(notes, key=lambda line: line["l"]):
            if line.get("group"):
                self.groups.setdefault(line["group"], "of " + line["l"])
                self.grouped.add(line["id"])

    def label(self, id):
        if id is None:
            return "-"
        found = self.labels.get(id) or ([self.groups[id]] if id in self.groups else ["?"])
        return "=".join(sorted(found))

    def place(self, id):
        """A parent; that of a chord's body is whichever of the header ended last."""
        return "<one of a group>" if id in self.grouped else self.label(id)

    def text(self, value):
        return ID.sub(lambda found: self.label(found[0]), str(value))

    def value(self, value):
        if isinstance(value, BaseException):
            return self.text(f"{type(value).__name__}({', '.join(map(str, value.args))})")
        if isinstance(value, (list, tuple)):
            return f"[{' '.join(self.value(item) for item in value)}]"
        return self.text(value)

    def line(self, note):
        said = f"{note['what']} {note['l']}"
        if "args" in note:
            said += f" {self.value(note['args'])}"
        if note["what"] == "call":
            # Whichever of a header ended last is the root of the body: which one is nobody's business.
            said += f" root={'itself' if note['root'] == note['id'] else 'another'} parent={self.place(note['parent'])}"
            said += " in a group" if note["group"] else ""
            for key in ("retries", "priority", "stamps"):
                said += f" {key}={note[key]}" if note[key] else ""
        if "of" in note:
            said += f" of={self.label(note['of'])}"
        if "error" in note:
            said += f" {self.text(note['error'])}"
        return said

    def result(self, result, depth=0):
        """A result with its parents and children, one line each."""
        pad = "  " * depth
        if result is None:
            return
        kind = type(result).__name__
        if isinstance(result, GroupResult):
            yield f"{pad}{kind} {len(result)} members"
            for member in result.results:
                yield from self.result(member, depth + 1)
        else:
            yield f"{pad}{kind} {self.label(result.id)} {result.state} {self.value(result.result)}"
            children = [self.brief(child) for child in result.children or ()]
            if children and result.id in self.labels:
                yield f"{pad}  children {' '.join(children)}"
        if result.parent is not None:
            yield f"{pad}after"
            yield from self.result(result.parent, depth + 1)

    def brief(self, result):
        if isinstance(result, GroupResult):
            return f"({' '.join(self.brief(member) for member in result.results)})"
        return self.label(result.id)

    def tasks(self):
        """The end of every task that ran."""
        for id, labels in sorted(self.labels.items(), key=lambda item: sorted(item[1])):
            result = app.AsyncResult(id)
            children = " ".join(self.brief(child) for child in result.children or ())
            yield f"{'='.join(sorted(labels))} {result.state} {self.value(result.result)} [{children}]"


def got(seen, result, **options):
    try:
        return seen.value(result.get(timeout=5, **options))
    except Exception as exc:
        return f"raises {seen.value(exc)}"


def answers(program, seen, result):
    if result is None or isinstance(result, Exception):
        yield f"  sent: {seen.value(result)}"
    else:
        if result.ready():
            yield f"  get: {got(seen, result)}"
            yield f"  not propagated: {got(seen, result, propagate=False)}"
        else:
            yield "  get: nothing yet"
        yield from ("  result: " + line for line in seen.result(result))
        if not isinstance(result, GroupResult):
            graph = result.build_graph(intermediate=True)
            edges = sorted(f"{seen.brief(a)}>{seen.brief(b)}" for a in graph if a.id in seen.labels for b in graph[a])
            yield f"  graph: {' '.join(edges)}"
    for line in sorted(map(seen.line, seen.notes)):
        yield "  " + line
    for line in seen.tasks():
        yield "  end: " + line


def settled(pause_s):
    """Wait until nothing is left to run; returns the notes. `pause_s`: so long is a turn at least, for countdowns."""
    turns, before = 0, -1
    while turns < TURNS:
        tick.delay().get(timeout=300)
        notes = [json.loads(line) for line in said()]
        waits = sum(line.get("goes_on", False) for line in notes) - sum(bool(line.get("retries")) for line in notes)
        turns = turns + 1 if len(notes) == before and waits <= 0 else 0
        before = len(notes)
        time.sleep(0.02 if waits > 0 else pause_s)
    return notes


def main():
    recipes = RECIPES.read_text()
    programs = [json.loads(line) for line in recipes.splitlines()]
    with worker("--pool=solo", loglevel="ERROR"):
        results = [applied(program, p) for p, program in enumerate(programs)]
        by_program = defaultdict(list)
        for line in settled(pause_s=0.1 if '"countdown"' in recipes else 0):
            by_program[line["p"]].append(line)
        for p, (program, result) in enumerate(zip(programs, results)):
            print(f"#{p} {json.dumps(program, separators=(',', ':'))}")
            for line in answers(program, Seen(by_program[p]), result):
                print(line)
