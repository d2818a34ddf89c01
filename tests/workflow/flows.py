"""Workflows for tests; each step writes a line to the journal of the stage, so that tests see what ran how often."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from pgtasks import Celery, Debounce, Unique, chain, group, wf
from pgtasks.exceptions import AlreadyEnqueued
from pgtasks.workflow.effects import current_step
from tests.worker.jobs import note, pass_gate

app = Celery("flows", **json.loads(os.environ.get("JOBS_CONF", "{}")))


class Refused(Exception):
    """What a payment service says."""


def effect(name: str, *values: Any) -> Any:
    """Something that is done in the world outside, and noted there."""
    note("effect", name=name, values=list(values), key=wf.idempotency_key())
    return values[0] if values else None


def code() -> dict[str, Any]:
    """What is different about the code after a deploy: read from a file that tests write."""
    path = Path(os.environ["JOBS_STAGE"]) / "code.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


@app.task
def add(x: int, y: int) -> int:
    note("effect", name="add", values=[x, y])
    return x + y


@app.task
def refuse(reason: str) -> None:
    note("effect", name="refuse")
    raise Refused(reason)


@app.task
def gated(gate: str, value: Any = None) -> Any:
    note("gated", gate=gate)
    pass_gate(gate)
    return value


@app.task
async def aadd(x: int, y: int) -> int:
    note("effect", name="aadd", values=[x, y])
    return x + y


@app.workflow
def five(n: int) -> int:
    for i in range(5):
        n = wf.step(effect, f"step {i}", n + 1)
    return n


@app.workflow
def inline(x: int) -> int:
    return int(add(add(x, 1), 2))


@app.workflow
def crashing(gate: str) -> list[Any]:
    """Stops at a gate in its second step; killed there, it goes on."""
    first = wf.step(effect, "first", 1)
    token = wf.uuid4()
    second = wf.step(_at_gate, gate, name="second")
    return [first, str(token), second]


def _at_gate(gate: str) -> str:
    note("at gate", gate=gate, key=wf.idempotency_key())
    pass_gate(gate)
    return gate


@app.workflow
def mostly_short(n: int, gate: str | None = None) -> int:
    """Its steps are short, but for one that may stop at a gate."""
    for _ in range(3):
        n = wf.step(effect, "short", n + 1)
    if gate is not None:
        wf.step(_at_gate, gate, name="long")
    return n


@app.workflow
def failing(times: int) -> str:
    try:
        wf.step(refuse, "no money")
    except Refused as error:
        wf.step(effect, "caught", str(error))
    for _ in range(times):
        wf.sleep(0.06)
    return "went on"


@app.workflow
def fails() -> None:
    wf.step(effect, "before", 1)
    wf.step(refuse, "for good")


@app.workflow
def stubborn(path: str) -> Any:
    return wf.step(partial(_third_time, path), retries=5, delay=0.2, backoff=1, name="flaky")


def _third_time(path: str) -> int:
    note("effect", name="flaky", key=current_step.get())
    tries = len(Path(path).read_text()) if Path(path).exists() else 0
    Path(path).write_text("x" * (tries + 1))
    if tries < 2:
        raise Refused(f"try {tries}")
    return tries


@app.workflow
def sleeper(seconds: float) -> str:
    wf.step(effect, "before")
    wf.sleep(seconds)
    wf.step(effect, "after")
    return "rested"


@app.workflow
def waiter(name: str, timeout: float | None = None) -> Any:
    wf.step(effect, "before")
    return wf.wait(name, timeout=timeout, default="nobody came")


@app.workflow
def waits(names: list[str]) -> list[Any]:
    return [wf.wait(name) for name in names]


@app.workflow
def swallowing(name: str) -> Any:
    while True:
        try:
            return wf.wait(name)
        except Exception:
            note("swallowed")
        finally:
            try:
                wf.step(effect, "in finally")
            except Exception:
                note("swallowed in finally")


@app.workflow
def bare(name: str) -> Any:
    try:
        return wf.wait(name)
    except BaseException:
        return "swallowed"


@app.workflow
def shrugging() -> str:
    """Makes nothing of any exception."""
    for i in range(3):
        try:
            wf.step(effect, f"step {i}")
        except BaseException:
            note("swallowed")
    return "shrugged"


@app.workflow
def parent(n: int) -> list[int]:
    results = [add.delay(i, i) for i in range(n)]
    return [each.get() for each in results]


@app.workflow
def late(seconds: float) -> int:
    """Asks for the result of its child long after that has ended."""
    child = add.delay(1, 2)
    wf.sleep(seconds)
    return int(child.get())


@app.workflow
def grouping(n: int) -> Any:
    return group(add.s(i, 1) for i in range(n)).delay().get()


@app.workflow
def many(n: int) -> Any:
    return add.delay_many((i, i) for i in range(n)).get()


@app.workflow
def chaining() -> Any:
    return chain(add.s(1, 2), add.s(10), add.s(100)).delay().get()


@app.workflow
def failing_child() -> str:
    try:
        refuse.delay("child").get()
    except Refused as error:
        return f"child said {error}"
    return "?"


@app.workflow
def first_of(gate: str, name: str, timeout: float | None = None) -> Any:
    child = gated.delay(gate, "from child")
    came = wf.wait_any(name, child, timeout=timeout)
    if came is None:
        return "time out"
    return ["child" if came.source == child else came.source, came.value]


@app.workflow
def telling_another(run_id: str) -> Any:
    told = app.AsyncResult(run_id).signal("packed", "from a run")
    wf.sleep(60)
    return told


@app.workflow
def approving(timeout: float | None = None) -> Any:
    approval = wf.approval("release", timeout=timeout)
    return [bool(approval), approval.by, approval.comment]


@app.workflow
def nested(n: int) -> int:
    """A workflow called in a workflow is part of it."""
    return int(inline(n)) + int(wf.step(effect, "own", n))


@app.workflow
def outer(n: int) -> int:
    """A workflow that waits for another one."""
    return int(five.delay(n).get())


@app.workflow
def undoing(fail: bool) -> str:
    for i in range(3):
        wf.step(effect, f"do {i}")
        wf.on_undo(effect, f"undo {i}")
    if fail:
        raise Refused("after all")
    wf.wait("go on")
    return "done"


@app.workflow
def with_children(gate: str) -> Any:
    return gated.delay(gate).get()


@app.workflow(children="leave")
def leaving_children(gate: str) -> Any:
    return gated.delay(gate).get()


@app.workflow
def telling() -> str:
    for i in range(3):
        wf.set("progress", i)
        wf.emit({"piece": i})
        wf.wait("more")
    return "told"


@app.workflow
def beginning_anew() -> str:
    wf.step(effect, "round")
    if wf.wait("how") == "again":
        wf.restart()
    return "done"


@app.workflow
def leaving_a_child_behind() -> str:
    add.delay(1, 2)
    if wf.wait("how") == "again":
        wf.restart()
    return "done"


@app.workflow
def waiting_twice() -> list[Any]:
    """Two waits, of two names, each the first of its name."""
    first = wf.wait("packed")
    second = wf.wait_any("packed")
    wf.wait("end")
    return [first, second.value]


@app.workflow(bind=True, max_retries=2, default_retry_delay=0)
def retrying(self: Any, path: str) -> Any:
    wf.step(effect, "kept")
    try:
        return wf.step(_third_time, path, name="flaky")
    except Refused as error:
        raise self.retry(exc=error) from error


@app.workflow(autoretry_for=(Refused,), retry_backoff=False, default_retry_delay=0, max_retries=5)
def auto_retrying(path: str) -> Any:
    wf.step(effect, "kept")
    return wf.step(_third_time, path, name="flaky")


@app.workflow
def frail(path: str) -> Any:
    wf.step(effect, "kept")
    return wf.step(_third_time, path, name="flaky")


@app.task
def frail_task(path: str) -> int:
    return _third_time(path)


@app.workflow
def with_frail_child(path: str) -> Any:
    wf.step(effect, "kept")
    return frail_task.delay(path).get()


@app.workflow
def gathering(n: int) -> Any:
    return wf.gather(*(add.s(i, i) for i in range(n)), partial(effect, "plain", "p"))


@app.workflow
def gathering_failures() -> Any:
    return wf.gather(add.s(1, 1), refuse.s("first"), add.s(2, 2))


@app.workflow
def moments() -> list[str]:
    values = [wf.now().isoformat(), str(wf.uuid4()), str(wf.random())]
    wf.wait("go")
    return values


@app.workflow
def looping(n: int) -> int:
    total = 0
    for i in range(n):
        total += wf.step(int, i)
    wf.wait("end")
    return total


@app.workflow(bind=True, max_retries=9, default_retry_delay=0)
def everything_else(self: Any, path: str) -> list[Any]:
    """What `everything` does not: begin anew, make what others may stand for, be tried again."""
    if wf.wait("round") == "again":
        wf.step(effect, "round", 1)
        wf.restart()
    done = [packed.delay(7).get(), *packed.delay_many([7, 8]).get()]
    try:
        done.append(wf.step(_third_time, path, name="flaky"))
    except Refused as error:
        raise self.retry(exc=error) from error
    return done


@app.workflow
def changing() -> list[str]:
    return _changing()


@app.workflow(mode="strict")
def changing_strictly() -> list[str]:
    return _changing()


def _changing() -> list[str]:
    """Steps named in the file of the code, half of them before a wait."""
    before, after = code().get("before", ["a", "b", "c"]), code().get("after", ["d"])
    done = [wf.step(effect, name, name, name=name) for name in before]
    wf.wait("deployed")
    return done + [wf.step(effect, name, name, name=name) for name in after]


@app.workflow(mode="pin", version="1")
def pinned() -> str:
    wf.wait("go")
    return "done"


@app.workflow
def patching() -> list[Any]:
    seen = [wf.patched("new") if code().get("new") else None]
    wf.step(effect, "between")
    wf.wait("go")
    seen.append(wf.patched("newer") if code().get("newer") else None)
    return seen


@app.workflow
def unwritable() -> Any:
    return wf.step(object, name="object")


@app.workflow
def waiting_for(how: str, value: Any) -> Any:
    return getattr(wf, how)(value) if how.startswith("sleep") else getattr(wf, how)("x", timeout=value)


@app.workflow
def nesting_steps() -> Any:
    return wf.step(_steps_within)


def _steps_within() -> Any:
    return wf.step(effect, "inner")


@app.task
def stepping_outside() -> Any:
    return wf.step(effect, "outside")


@app.task(unique=Unique("order"))
def packed(order: int) -> int:
    note("effect", name="packed", values=[order])
    return order


@app.task(unique=Unique("order", on_conflict="raise"))
def packed_by_one(order: int) -> int:
    return order


@app.task(debounce=Debounce(0.5, key="document"))
def indexed(document: str, version: int) -> int:
    return version


@app.workflow
def packing(order: int) -> Any:
    return packed.delay(order).get()


@app.workflow
def packing_many(orders: list[int]) -> Any:
    return packed.delay_many(orders).get()


@app.workflow
def packing_in_a_canvas(order: int) -> Any:
    try:
        return chain(packed.s(order), add.s(1)).delay().get()
    except AlreadyEnqueued:
        wf.sleep(60)
        return "somebody else packs"


@app.workflow
def insisting_on_packing(order: int) -> Any:
    try:
        return packed_by_one.delay(order).get()
    except AlreadyEnqueued:
        wf.sleep(60)
        return "somebody else packs"


@app.workflow
def indexing() -> Any:
    results = [indexed.delay("page", version) for version in range(3)]
    return [result.get() for result in results]


# -- coroutines


@app.workflow
async def afive(n: int) -> int:
    for i in range(5):
        n = await wf.step(effect, f"step {i}", n + 1)
    return n


@app.workflow
async def ainline(x: int) -> int:
    return int(await aadd(await aadd(x, 1), 2))


@app.workflow
async def awaiting(name: str) -> Any:
    child = await aadd.adelay(1, 2)
    token = str(await wf.uuid4())
    value = await wf.wait(name)
    return [await child, value, token == str(token)]


@app.workflow
async def abranches(names: list[str]) -> Any:
    import asyncio  # a flow of its own style

    async def branch(name: str) -> Any:
        await wf.step(effect, "begin", name, name="begin")
        value = await wf.wait(name)
        return await wf.step(effect, "end", value, name="end")

    return await asyncio.gather(*(branch(name) for name in names))


@app.workflow
async def asleeping(seconds: list[float]) -> Any:
    async with __import__("asyncio").TaskGroup() as branches:
        tasks = [branches.create_task(_asleep(each)) for each in seconds]
    return [task.result() for task in tasks]


async def _asleep(seconds: float) -> float:
    await wf.sleep(seconds)
    return float(await wf.step(effect, "woke", seconds))


# -- money


@app.task(transactional=True, bind=True)
def debit(self: Any, account: str, amount: int) -> int:
    row = self.connection.execute(
        "UPDATE money SET balance = balance - %s WHERE account = %s RETURNING balance", [amount, account]
    ).fetchone()
    note("debited", account=account)
    return int(row[0])


@app.task(transactional=True, bind=True)
def overdraw(self: Any, account: str) -> None:
    self.connection.execute("UPDATE money SET balance = 0 WHERE account = %s", [account])
    raise Refused("rolled back")


@app.task(transactional=True, bind=True)
def break_rule(self: Any, account: str) -> None:
    """Violates a constraint that is looked at no earlier than at COMMIT."""
    self.connection.execute("INSERT INTO money (account) VALUES (%s)", [account])


@app.workflow
def paying_off(account: str, times: int) -> int:
    for _ in range(times):
        debit(account, 1)
    return times


@app.workflow
def paying(account: str, times: int) -> list[int]:
    paid = [debit(account, 1) for _ in range(times)]
    paid.append(wf.step(_credit, account, transactional=True, name="credit"))
    wf.wait("more")
    return paid


def _credit(connection: Any, account: str) -> int:
    row = connection.execute("UPDATE money SET balance = balance + 100 WHERE account = %s RETURNING balance", [account])
    return int(row.fetchone()[0])


@app.workflow
def everything(path: str) -> list[Any]:
    """One of each thing that a workflow can do."""
    done: list[Any] = [wf.step(effect, "one", 1)]
    wf.on_undo(effect, "undo one")
    done.append(add(1, 1))
    child, canvas = add.delay(2, 2), group(add.s(i, 3) for i in range(2)).delay()
    done += wf.gather(add.s(4, 4), partial(effect, "two", 2))
    wf.emit("piece")
    wf.set("progress", 1)
    wf.sleep(60)
    done += [child.get(), canvas.get()]
    done.append(wf.wait("go", timeout=1000))
    done.append(wf.step(partial(_third_time, path), retries=5, delay=10, backoff=1, name="flaky"))
    done.append(wf.wait_any("never", add.delay(5, 5)).value)
    if wf.patched("fail"):
        wf.step(effect, "three")
    return done
