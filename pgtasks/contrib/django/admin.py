"""The admin's pages: tasks, queues, workers, schedules and steps, to look at; and what can be done to tasks.

Whoever may view tasks may look. Revoking, redriving and retrying take the permission to change them
(`pgtasks.change_task`). Large tables stay quick: nothing is counted beyond ten
thousand, and lists go by the key.
"""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db import connections
from django.db.models import Q
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe
from django.utils.timezone import is_aware, localtime
from django.utils.translation import ngettext

from pgtasks import states
from pgtasks.app import graph, rerun
from pgtasks.contrib.django.app import project_app
from pgtasks.contrib.django.models import Queue, Schedule, Step, Task, Worker
from pgtasks.contrib.django.place import Places
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.workflow import operations

#: Rows that are counted; beyond them a list goes on without saying how long it is.
MOST_COUNTED = 10_000
LIVE = ("READY", "SCHEDULED", "WAITING", "STARTED", "RETRY")
_COLOURS = {
    "SUCCESS": "#2e7d32", "FAILURE": "#c62828", "REVOKED": "#6d4c41", "STARTED": "#1565c0", "RETRY": "#ef6c00",
}  # fmt: skip


class BoundedPaginator(Paginator):
    """Counts no further than a person turns pages."""

    @cached_property
    def count(self) -> int:
        counted: int = self.object_list.order_by()[:MOST_COUNTED].count()
        return counted


class ViewAdmin(admin.ModelAdmin):
    """A page to look at, in whichever of Django's databases has the tasks."""

    paginator = BoundedPaginator
    show_full_result_count = False
    list_per_page = 50

    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).using(alias_of_tasks())

    def has_add_permission(self, request: Any) -> bool:
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        """Nothing is edited: pages are to view. What can be done are actions, which ask for `act`."""
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def has_act_permission(self, request: Any) -> bool:
        return bool(request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}"))

    def get_readonly_fields(self, request: Any, obj: Any = None) -> Any:
        return [field.name for field in self.model._meta.fields]


def alias_of_tasks() -> str:
    """Which of DATABASES leads to the database of the tasks; raises ImproperlyConfigured when none does."""
    places = _places(project_app())
    for alias in connections:
        if places.is_ours(connections[alias]):
            return str(alias)
    raise ImproperlyConfigured(
        f"None of DATABASES ({', '.join(connections)}) is the database of the tasks, so Django cannot show them. Add it there"
        " under a name of its own, or look with `manage.py pgtasks top`."
    )


_places = cache(Places)


class StateFilter(admin.SimpleListFilter):
    """By the states there can be: asking the table which there are would read all of it."""

    title = parameter_name = "state"

    def lookups(self, request: Any, model_admin: Any) -> Any:
        return [("live", "not ended"), *((state, state) for state in (*LIVE, "SUCCESS", "FAILURE", "REVOKED"))]

    def queryset(self, request: Any, queryset: Any) -> Any:
        wanted = self.value()
        if wanted == "live":
            return queryset.filter(done_at=None)
        return queryset.filter(state=wanted) if wanted else queryset


class QueueFilter(admin.SimpleListFilter):
    """By the queues in which something waits, and those that workers consume."""

    title = parameter_name = "queue"

    def lookups(self, request: Any, model_admin: Any) -> Any:
        alias = alias_of_tasks()
        names = set(Queue.objects.using(alias).values_list("queue", flat=True))
        for queues in Worker.objects.using(alias).values_list("queues", flat=True):
            names.update(queues)
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: Any, queryset: Any) -> Any:
        return queryset.filter(queue=self.value()) if self.value() else queryset


def coloured(state: str) -> Any:
    return format_html('<b style="color:{}">{}</b>', _COLOURS.get(state, "inherit"), state)


def link_to_task(task_id: Any) -> Any:
    return format_html('<a href="{}">{}</a>', reverse("admin:pgtasks_task_change", args=[task_id]), task_id)


def preformatted(text: str | None) -> Any:
    return format_html('<pre style="white-space:pre-wrap;overflow-wrap:anywhere;margin:0">{}</pre>', text) if text else "-"


def moment(at: Any) -> Any:
    """To the second, which Django's own format leaves out."""
    if at is None:
        return "-"
    shown = f"{localtime(at) if is_aware(at) else at:%Y-%m-%d %H:%M:%S}"
    return format_html('<span style="white-space:nowrap">{}</span>', shown)


def call_of(task: Task) -> str | None:
    """A task's call as one would write it; its body as it is, where that is no JSON that we know."""
    try:
        args, kwargs, _ = json.loads(task.payload or "")
        given = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
    except (ValueError, TypeError, AttributeError):
        return task.payload
    return f"{task.name}({', '.join(given)})"


def outcome_of(task: Task) -> str | None:
    """What a task has returned, or the error that it failed with as one would write that."""
    if task.state in states.EXCEPTION_STATES:
        with suppress(ValueError, TypeError, KeyError):
            error = json.loads(task.result or "")
            message = error["exc_message"]
            words = message if isinstance(message, list) else [message]
            return f"{error['exc_type']}({', '.join(map(repr, words))})"
    return task.result


def _flat(each: Any) -> tuple[str, ...]:
    return each if isinstance(each, tuple) else (each,)


@admin.register(Task)
class TaskAdmin(ViewAdmin):
    """Tasks, the newest first."""

    list_display = ("name", "short_id", "shown_state", "queue", "created", "wait", "taken", "retries", "worker")
    list_display_links = ("name", "short_id")
    list_filter = (StateFilter, QueueFilter)
    search_fields = ("name",)
    search_help_text = "An id, or how the name begins"
    sortable_by = ()
    actions = ("revoke", "terminate", "redrive", "retry")
    fieldsets = (
        (None, {"fields": ("name", "public_id", "shown_state", "queue", "priority", "worker")}),
        ("Call and outcome", {"fields": ("arguments", "outcome", "shown_traceback", "steps")}),
        ("Times", {"fields": (("created", "due_at", "expires_at"), ("claimed", "wait"), ("done", "taken"))}),
        ("Attempts", {"fields": (("delivery", "retries"),)}),
        ("Canvas", {"fields": ("root_link", "parent_link", "group_id", "canvas")}),
    )

    def get_readonly_fields(self, request: Any, obj: Any = None) -> Any:
        shown = [field for _, options in self.fieldsets for each in options["fields"] for field in _flat(each)]
        return [*super().get_readonly_fields(request, obj), *shown]

    def get_search_results(self, request: Any, queryset: Any, search_term: str) -> tuple[Any, bool]:
        if not search_term:
            return queryset, False
        found = Q(task_id=search_term) | Q(name__startswith=search_term)
        try:
            key = UUID(search_term)
        except ValueError:
            return queryset.filter(found), False
        return queryset.filter(found | Q(id=key) | Q(root=key)), False

    # -- columns

    @admin.display(description="id")
    def public_id(self, task: Task) -> str:
        return task.public_id

    @admin.display(description="id")
    def short_id(self, task: Task) -> Any:
        """The end of an id that is a UUID: the beginning is the time, and leaves no room for other columns."""
        shown = task.task_id or f"\N{HORIZONTAL ELLIPSIS}{str(task.id)[-12:]}"
        return format_html('<span style="white-space:nowrap" title="{}">{}</span>', task.public_id, shown)

    @admin.display(description="state")
    def shown_state(self, task: Task) -> Any:
        return coloured(task.state)

    @admin.display(description="created at")
    def created(self, task: Task) -> Any:
        return moment(task.created_at)

    @admin.display(description="due")
    def due_at(self, task: Task) -> Any:
        return moment(task.due)

    @admin.display(description="expires")
    def expires_at(self, task: Task) -> Any:
        return moment(task.expires)

    @admin.display(description="begun at")
    def claimed(self, task: Task) -> Any:
        return moment(task.claimed_at)

    @admin.display(description="ended at")
    def done(self, task: Task) -> Any:
        return moment(task.done_at)

    @admin.display(description="waited")
    def wait(self, task: Task) -> str:
        return _seconds(task.created_at, task.claimed_at)

    @admin.display(description="took")
    def taken(self, task: Task) -> str:
        return _seconds(task.claimed_at, task.done_at)

    @admin.display(description="root")
    def root_link(self, task: Task) -> Any:
        return link_to_task(task.root) if task.root else "-"

    @admin.display(description="parent")
    def parent_link(self, task: Task) -> Any:
        return link_to_task(task.parent) if task.parent else "-"

    @admin.display(description="call")
    def arguments(self, task: Task) -> Any:
        return preformatted(call_of(task))

    @admin.display(description="result")
    def outcome(self, task: Task) -> Any:
        return preformatted(outcome_of(task))

    @admin.display(description="traceback")
    def shown_traceback(self, task: Task) -> Any:
        return preformatted(task.traceback)

    @admin.display(description="canvas")
    def canvas(self, task: Task) -> Any:
        """The canvas of the task as a drawing; empty for a task that is not part of one."""
        found = graph.load(project_app(), str(task.id))
        # The drawing escapes what it says.
        return mark_safe(found.svg()) if len(found.nodes) > 1 else "-"

    @admin.display(description="steps")
    def steps(self, task: Task) -> Any:
        """What a workflow remembers."""
        rows = Step.objects.using(alias_of_tasks()).filter(run=task.id).order_by("seq")
        lines = [(s.seq, s.name, s.kind, coloured(s.state), s.attempts, s.at, (s.value or "")[:200]) for s in rows]
        if not lines:
            return "-"
        head = "<tr><th>#</th><th>step</th><th>kind</th><th>state</th><th>tries</th><th>at</th><th>value</th></tr>"
        cells = "<tr>" + "<td>{}</td>" * 7 + "</tr>"
        return format_html("<table>{}{}</table>", mark_safe(head), format_html_join("", cells, lines))

    # -- actions

    @admin.action(description="Revoke: what has not begun does not run", permissions=["act"])
    def revoke(self, request: Any, queryset: Any) -> None:
        self._revoke(request, queryset, terminate=False)

    @admin.action(description="Revoke, and end what runs", permissions=["act"])
    def terminate(self, request: Any, queryset: Any) -> None:
        self._revoke(request, queryset, terminate=True)

    def _revoke(self, request: Any, queryset: Any, terminate: bool) -> None:
        ids = [task.public_id for task in queryset if task.done_at is None]
        if ids:
            project_app().control.revoke(ids, terminate=terminate)
        _say(self, request, len(ids), "task was revoked", "tasks were revoked", "They have ended: nothing was revoked.")

    @admin.action(description="Redrive: run what failed in these canvases and workflows again", permissions=["act"])
    def redrive(self, request: Any, queryset: Any) -> None:
        app, again = project_app(), 0
        for task in queryset:
            try:
                if Step.objects.using(queryset.db).filter(run=task.pk).exists():
                    again += len(operations.redrive(app, [task.public_id]))
                else:
                    again += rerun.redrive(app, task.public_id)
            except ImproperlyConfigured as error:
                self.message_user(request, str(error), messages.WARNING)
        _say(self, request, again, "task runs again", "tasks run again", "Nothing has failed there.")

    @admin.action(description="Retry: send a copy of these tasks, which have ended", permissions=["act"])
    def retry(self, request: Any, queryset: Any) -> None:
        app, sent = project_app(), 0
        for task in queryset:
            if task.state not in states.READY_STATES:
                continue
            try:
                sent += len(rerun.fork(app, task.public_id))
            except ImproperlyConfigured as error:
                self.message_user(request, str(error), messages.WARNING)
        _say(self, request, sent, "copy was sent", "copies were sent", "None of them has ended.")


def _seconds(start: Any, end: Any) -> str:
    return f"{(end - start).total_seconds():.3f}\N{NO-BREAK SPACE}s" if start and end else "-"


def _say(page: Any, request: Any, count: int, one: str, many: str, none: str) -> None:
    if count:
        page.message_user(request, f"{count} {ngettext(one, many, count)}.", messages.SUCCESS)
    else:
        page.message_user(request, none, messages.INFO)


@admin.register(Queue)
class QueueAdmin(ViewAdmin):
    """Queues in which something waits."""

    list_display = ("queue", "ready", "scheduled", "oldest", "consumers")
    list_display_links = None
    sortable_by = ()

    @admin.display(description="live workers")
    def consumers(self, queue: Queue) -> int:
        alive = Worker.objects.using(alias_of_tasks()).filter(is_alive=True)
        return sum(queue.queue in worker.queues for worker in alive)


@admin.register(Worker)
class WorkerAdmin(ViewAdmin):
    """Worker processes."""

    list_display = ("hostname", "is_alive", "pool", "concurrency", "claimed", "shown_queues", "pid", "started_at", "version")
    sortable_by = ()

    @admin.display(description="queues")
    def shown_queues(self, worker: Worker) -> str:
        return ", ".join(worker.queues)


@admin.register(Schedule)
class ScheduleAdmin(ViewAdmin):
    """Periodic tasks."""

    list_display = ("name", "app", "task", "schedule", "is_paused", "last_run_at", "next_run_at", "runs", "last")
    list_display_links = None
    sortable_by = ()

    @admin.display(description="last")
    def last(self, schedule: Schedule) -> Any:
        if schedule.last_task is None:
            return "-"
        return format_html("{} {}", coloured(schedule.last_state or ""), link_to_task(schedule.last_task))


@admin.register(Step)
class StepAdmin(ViewAdmin):
    """Steps of workflows, the newest workflow first."""

    list_display = ("run_link", "seq", "name", "ordinal", "kind", "shown_state", "attempts", "at", "took", "value")
    list_display_links = None
    list_filter = ("state", "kind")
    search_fields = ("=run", "=name")
    sortable_by = ()

    @admin.display(description="run")
    def run_link(self, step: Step) -> Any:
        return link_to_task(step.run)

    @admin.display(description="state")
    def shown_state(self, step: Step) -> Any:
        return coloured(step.state)
