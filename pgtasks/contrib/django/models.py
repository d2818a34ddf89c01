"""The views of pgtasks as read-only models: for the admin, and for the project's own pages and queries.

Nothing is managed: no migration makes or changes them. `Task.objects.using(alias)` reads them where the tasks are in another
database than the default one.
"""

from __future__ import annotations

from typing import Any

from django.db import models

__all__ = ("Queue", "Schedule", "Step", "Task", "Worker")


class ReadOnlyError(TypeError):
    """Somebody tried to write to a view."""


class TextArray(models.Field):
    """A column `text[]`, as a list; Django's own field would have projects install django.contrib.postgres."""

    def db_type(self, connection: Any) -> str:
        return "text[]"


class View(models.Model):
    """A model that can only be read."""

    class Meta:
        abstract = True
        managed = False

    def save(self, *args: Any, **kwargs: Any) -> None:
        raise ReadOnlyError(
            f"{self._meta.verbose_name} {self.pk} is a row of a view, and cannot be saved. Call tasks to add some, and"
            " change them by app.control."
        )

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        raise ReadOnlyError(
            f"{self._meta.verbose_name} {self.pk} is a row of a view, and cannot be deleted. AsyncResult.forget() removes a"
            " result, app.control.purge() empties queues."
        )


class Task(View):
    """One task, wherever it stands."""

    id = models.UUIDField(primary_key=True)
    task_id = models.TextField("own id", null=True)
    name = models.TextField()
    queue = models.TextField()
    priority = models.SmallIntegerField()
    state = models.TextField()
    created_at = models.DateTimeField()
    due = models.DateTimeField(null=True)
    expires = models.DateTimeField(null=True)
    claimed_at = models.DateTimeField(null=True)
    done_at = models.DateTimeField(null=True)
    retries = models.IntegerField()
    delivery = models.IntegerField()
    worker = models.TextField(null=True)
    pending = models.IntegerField("unfinished predecessors", null=True)
    root = models.UUIDField(null=True)
    parent = models.UUIDField(null=True)
    group_id = models.TextField("group", null=True)
    payload = models.TextField("arguments", null=True)
    result = models.TextField(null=True)
    traceback = models.TextField(null=True)

    class Meta(View.Meta):
        db_table = '"pgtasks"."tasks"'
        # By the key, which begins with the time: there is an index for that, and none for created_at.
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.name}[{self.public_id}]"

    @property
    def public_id(self) -> str:
        """The id as callers know it."""
        return self.task_id or str(self.id)


class Queue(View):
    """One queue in which something waits."""

    queue = models.TextField(primary_key=True)
    ready = models.BigIntegerField()
    scheduled = models.BigIntegerField()
    oldest = models.DateTimeField("oldest ready since", null=True)

    class Meta(View.Meta):
        db_table = '"pgtasks"."queues"'
        ordering = ("-ready", "queue")

    def __str__(self) -> str:
        return self.queue


class Worker(View):
    """One worker process."""

    id = models.UUIDField(primary_key=True)
    hostname = models.TextField()
    machine = models.TextField()
    pid = models.IntegerField()
    pool = models.TextField()
    concurrency = models.IntegerField()
    queues = TextArray()
    version = models.TextField()
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()
    is_alive = models.BooleanField()
    is_stopping = models.BooleanField()
    claimed = models.BigIntegerField()

    class Meta(View.Meta):
        db_table = '"pgtasks"."workers"'
        ordering = ("hostname",)

    def __str__(self) -> str:
        return self.hostname


class Schedule(View):
    """One periodic task."""

    # The view's key is app and name; Django wants one column, and only shows what it finds by it.
    name = models.TextField(primary_key=True)
    app = models.TextField()
    task = models.TextField()
    schedule = models.TextField()
    is_paused = models.BooleanField()
    last_run_at = models.DateTimeField(null=True)
    next_run_at = models.DateTimeField(null=True)
    runs = models.BigIntegerField()
    skips = models.BigIntegerField()
    last_task = models.UUIDField(null=True)
    last_state = models.TextField(null=True)
    seen_at = models.DateTimeField()

    class Meta(View.Meta):
        db_table = '"pgtasks"."schedules"'
        ordering = ("next_run_at", "name")

    def __str__(self) -> str:
        return self.name


class Step(View):
    """One step of a workflow."""

    # The view's key is run and seq; the pages list steps, and show each with its run.
    run = models.UUIDField(primary_key=True)
    seq = models.IntegerField()
    name = models.TextField()
    ordinal = models.IntegerField()
    kind = models.TextField()
    state = models.TextField()
    at = models.DateTimeField()
    due = models.DateTimeField(null=True)
    took = models.FloatField("seconds", null=True)
    attempts = models.IntegerField()
    delivery = models.IntegerField()
    source = models.TextField(null=True)
    value = models.TextField(null=True)

    class Meta(View.Meta):
        db_table = '"pgtasks"."steps"'
        ordering = ("-run", "seq")

    def __str__(self) -> str:
        return f"{self.name}[{self.ordinal}] of {self.run}"
