"""The tasks of a Django app."""

from __future__ import annotations

from functools import partial
from typing import Any, ParamSpec, TypeVar

from django.db import transaction

from pgtasks.app.publish import carrier
from pgtasks.app.task import Task
from pgtasks.asyncresult import AsyncResult
from pgtasks.canvas.ids import fresh_id

__all__ = ("DjangoTask",)

P = ParamSpec("P")
R = TypeVar("R")


class DjangoTask(Task[P, R]):
    """A task that can be called for when the transaction commits, wherever the tasks are."""

    abstract = True

    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """`delay`, once the current transaction commits."""
        return self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult[R]:
        """`apply_async`, once the current transaction commits; gives the result it will have.

        In the database that has the tasks this is the call itself, which is part of the transaction: when it commits, the
        task is there, whatever becomes of this process. With another database, with `using=False`, or eagerly, it is
        Django's `on_commit`: `captureOnCommitCallbacks` sees it. `using=` names the database whose commit is meant.
        """
        app = self._get_app()
        using = options.pop("using", None)
        joined = carrier(app, None)
        if joined is not None and using in (None, joined.alias) and not app.conf.task_always_eager:
            return self.apply_async(args, kwargs, **options)
        task_id = options.setdefault("task_id", fresh_id())
        call = partial(self.apply_async, args, kwargs, using=False, **options)
        transaction.on_commit(call, using=using or None)
        return self.AsyncResult(task_id)
