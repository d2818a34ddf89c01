"""Tasks that can be asked to stop, where `compat/programs/contrib/abortable.py` does not tell."""

from __future__ import annotations

from typing import Any

from pgtasks import Celery
from pgtasks.contrib.abortable import AbortableTask
from pgtasks.result import AsyncResult


def test_a_task_whose_results_cannot_be_aborted_is_not_aborted_instead_of_failing(database_url: str) -> None:
    class Plain(AbortableTask):
        abstract = True

        def AsyncResult(self, task_id: str, **kwargs: Any) -> Any:
            return AsyncResult(task_id, backend=self.backend, **kwargs)

    with Celery("abortable", broker=database_url, set_as_current=False) as app:
        aborted, plain = (
            app.task(name=f"abortable.{base.__name__}", base=base, shared=False)(lambda: None)
            for base in (AbortableTask, Plain)
        )
        aborted.AsyncResult("one").abort()

        assert aborted.is_aborted(task_id="one") is True
        assert aborted.is_aborted(task_id="another") is False
        assert plain.is_aborted(task_id="one") is False
