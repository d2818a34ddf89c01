"""Tasks that are coroutine functions, and calls made from coroutines."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from pgtasks import Celery
from pgtasks.exceptions import Retry
from pgtasks.utils.coroutines import run_coroutine
from pgtasks.utils.threads import LocalStack


@pytest.fixture
def app() -> Celery:
    return Celery("proj", set_as_current=False, task_always_eager=True)


def test_a_coroutine_function_is_run_to_its_end_by_an_eager_call(app: Celery) -> None:
    @app.task(bind=True, max_retries=2)
    async def body(self: Any, x: int) -> Any:
        await asyncio.sleep(0)
        if self.request.retries < x:
            raise self.retry(countdown=60)
        return [x, app.current_task.name == self.name, self.request.is_eager]

    assert body.delay(1).get() == [1, True, True]
    assert body.delay(5).state == "FAILURE"


def test_a_direct_call_gives_the_coroutine_to_await(app: Celery) -> None:
    @app.task
    async def double(x: int) -> int:
        return 2 * x

    async def main() -> int:
        return await double(4)

    assert asyncio.run(main()) == 8


def test_an_eager_call_from_a_coroutine_runs_the_body_on_the_callers_loop(app: Celery) -> None:
    @app.task
    async def loop_of_body() -> Any:
        return asyncio.get_running_loop()

    # The loop is no JSON: the result must be the object itself, as with every eager call.
    async def main() -> bool:
        result = await loop_of_body.adelay()
        return result.get(disable_sync_subtasks=False) is asyncio.get_running_loop()

    assert asyncio.run(main())


def test_a_sync_eager_call_from_a_coroutine_does_not_stop_at_the_running_loop(app: Celery) -> None:
    @app.task(bind=True)
    async def body(self: Any) -> Any:
        await asyncio.sleep(0)
        return self.request.id

    async def main() -> Any:
        return body.apply_async(task_id="inner").get()

    assert asyncio.run(main()) == "inner"


def test_plain_tasks_can_be_called_from_coroutines_too(app: Celery) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    async def main() -> Any:
        wrong = asyncio.create_task(add.adelay(1))  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            await wrong
        return (await add.adelay(1, 2)).get(), (await add.aapply((3, 4))).get()

    assert asyncio.run(main()) == (3, 7)


def test_interleaved_tasks_of_one_thread_keep_their_own_requests(app: Celery) -> None:
    meet = asyncio.Event()

    @app.task(bind=True)
    async def body(self: Any, first: bool) -> Any:
        if first:
            await meet.wait()
        else:
            meet.set()
            await asyncio.sleep(0)
        return [self.request.id, app.current_task.request.id]

    async def main() -> Any:
        calls = [body.aapply((True,), task_id="a"), body.aapply((False,), task_id="b")]
        return [result.get() for result in await asyncio.gather(*calls)]

    assert asyncio.run(main()) == [["a", "a"], ["b", "b"]]
    assert app.current_task is None


def test_autoretry_works_for_coroutine_functions(app: Celery) -> None:
    attempts = []

    @app.task(bind=True, autoretry_for=(KeyError,), retry_backoff=True)
    async def body(self: Any) -> str:
        attempts.append(self.request.retries)
        if len(attempts) < 3:
            raise KeyError("again")
        return "done"

    assert body.delay().get() == "done"
    assert attempts == [0, 1, 2]


def test_a_retry_raised_to_the_caller_of_a_coroutine(app: Celery) -> None:
    @app.task(bind=True)
    async def body(self: Any) -> None:
        self.retry()

    async def main() -> None:
        await body.aapply(throw=True)

    with pytest.raises(Retry):
        asyncio.run(main())


def test_what_a_coroutine_leaves_on_its_loop_still_works_in_the_next_task_of_the_thread() -> None:
    kept: list[asyncio.Queue[int]] = []

    async def make() -> None:
        kept.append(asyncio.Queue())
        kept[0].put_nowait(1)

    async def use() -> int:
        return await kept[0].get()

    run_coroutine(make())

    assert run_coroutine(use()) == 1


def test_an_interrupted_loop_cancels_what_ran_on_it_and_is_not_used_again() -> None:
    cleaned: list[str] = []

    class Interrupt(KeyboardInterrupt):
        """The event loop itself keeps all others from leaving it."""

    async def body() -> None:
        def interrupt() -> None:
            raise Interrupt

        asyncio.get_running_loop().call_soon(interrupt)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cleaned.append("finally")

    async def fine() -> str:
        return "fine"

    with pytest.raises(Interrupt):
        run_coroutine(body())

    assert cleaned == ["finally"]
    assert run_coroutine(fine()) == "fine"


def test_threads_start_with_an_empty_stack_and_coroutines_with_a_copy() -> None:
    stack: LocalStack[str] = LocalStack()
    stack.push("outer")
    seen: list[Any] = []

    def other_thread() -> None:
        seen.append((stack.top, len(stack), stack.pop()))

    async def inner() -> None:
        stack.push("inner")
        seen.append(stack.stack)

    async def main() -> None:
        await asyncio.create_task(inner())
        seen.append(stack.stack)

    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join()
    asyncio.run(main())

    assert seen == [(None, 0, None), ("outer", "inner"), ("outer",)]
    assert (stack.pop(), stack.pop(), stack.top) == ("outer", None, None)
