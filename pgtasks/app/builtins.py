"""The tasks that every app has.

`celery.chain`, `celery.group` and `celery.chord` are not what runs a canvas, which is rows and edges in the
database; they are there for messages and schedules that name them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from pgtasks._state import connect_on_app_finalize
from pgtasks.app.undoing import send_undos
from pgtasks.canvas import chord, chunks, group, maybe_signature, signature
from pgtasks.canvas.undoing import UNDO
from pgtasks.result import GroupResult, allow_join_result, result_from_tuple

__all__ = ("BUILT_IN",)

#: How the names of the tasks begin that nobody has written.
BUILT_IN = ("celery.",)

F = TypeVar("F", bound=Callable[..., Any])


class App(Protocol):
    """What a built-in task needs of its app."""

    conf: Any
    backend: Any
    current_worker_task: Any

    def task(self, **options: Any) -> Callable[[F], F]: ...


@connect_on_app_finalize
def add_backend_cleanup_task(app: App) -> Any:
    @app.task(name="celery.backend_cleanup", shared=False, lazy=False)
    def backend_cleanup() -> None:
        app.backend.cleanup()

    return backend_cleanup


@connect_on_app_finalize
def add_accumulate_task(app: App) -> Any:
    @app.task(bind=True, name="celery.accumulate", shared=False, lazy=False)
    def accumulate(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the arguments, or the one at `index`: the task that ends a replaced group."""
        index = kwargs.get("index")
        return args[index] if index is not None else args

    return accumulate


@connect_on_app_finalize
def add_undo_task(app: App) -> Any:
    @app.task(bind=True, name=UNDO, shared=False, lazy=False, acks_late=True, ignore_result=False)
    def undo(self: Any, undos: Any, ends: Any) -> list[str]:
        """Undo the canvas that this task is part of, if it has failed."""
        return send_undos(app, self.request.id, undos, ends)

    return undo


@connect_on_app_finalize
def add_unlock_chord_task(app: App) -> Any:
    @app.task(
        name="celery.chord_unlock",
        max_retries=None,
        shared=False,
        default_retry_delay=app.conf.result_chord_retry_interval,
        ignore_result=True,
        lazy=False,
        bind=True,
    )
    def unlock_chord(
        self: Any,
        group_id: str,
        callback: Any,
        interval: float | None = None,
        max_retries: int | None = None,
        result: Any = None,
        **kwargs: Any,
    ) -> None:
        """Apply a chord's body once its header is ready: for chords that were sent by Celery itself."""
        header = GroupResult(group_id, [result_from_tuple(node, app=app) for node in result], app=app)
        if not header.ready():
            raise self.retry(countdown=interval, max_retries=max_retries)
        with allow_join_result():
            values = header.join(timeout=app.conf.result_chord_join_timeout, propagate=True)
        maybe_signature(callback, app=app).delay(values)

    return unlock_chord


@connect_on_app_finalize
def add_map_task(app: App) -> Any:
    @app.task(name="celery.map", shared=False, lazy=False)
    def xmap(task: Any, it: Any) -> list[Any]:
        call = signature(task, app=app).type
        return [call(item) for item in it]

    return xmap


@connect_on_app_finalize
def add_starmap_task(app: App) -> Any:
    @app.task(name="celery.starmap", shared=False, lazy=False)
    def xstarmap(task: Any, it: Any) -> list[Any]:
        call = signature(task, app=app).type
        return [call(*item) for item in it]

    return xstarmap


@connect_on_app_finalize
def add_chunk_task(app: App) -> Any:
    @app.task(name="celery.chunks", shared=False, lazy=False)
    def apply_chunks(task: Any, it: Any, n: int) -> Any:
        return chunks.apply_chunks(task, it, n)

    return apply_chunks


@connect_on_app_finalize
def add_group_task(app: App) -> Any:
    @app.task(name="celery.group", bind=True, shared=False, lazy=False)
    def apply_group(
        self: Any, tasks: Any, result: Any, group_id: str, partial_args: Any, add_to_parent: bool = True
    ) -> Any:
        result = result_from_tuple(result, app)
        for task in tasks:
            member = maybe_signature(task, app=app).clone(partial_args)
            member.apply_async(group_id=group_id, add_to_parent=False)
        parent = app.current_worker_task
        if add_to_parent and parent:
            parent.add_trail(result)
        return result

    return apply_group


@connect_on_app_finalize
def add_chain_task(app: App) -> Any:
    @app.task(name="celery.chain", shared=False, lazy=False)
    def apply_chain(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("chain is not a real task")

    return apply_chain


@connect_on_app_finalize
def add_chord_task(app: App) -> Any:
    @app.task(name="celery.chord", bind=True, ignore_result=False, shared=False, lazy=False)
    def apply_chord(
        self: Any,
        header: Any,
        body: Any,
        partial_args: Any = (),
        **kwargs: Any,
    ) -> Any:
        members = header.tasks if isinstance(header, group) else header
        header = group([maybe_signature(member, app=app) for member in members], app=app)
        body = maybe_signature(body, app=app)
        return chord(header, body, app=app).apply_async(partial_args)

    return apply_chord
