"""`Celery`: the application, which owns a configuration, a registry of tasks and the way to the database.

    declared --- first look at conf ---> configured      on_configure, on_after_configure
    declared --- first look at tasks --> finalized       the tasks declared so far exist, on_after_finalize

Making an app costs nothing and touches nothing: its parts (amqp, backend, control, log, loader, database) are
made when they are first asked for. Parts are named by class attributes, so that a subclass can put its own
in.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from functools import partial
from types import GenericAlias
from typing import Any, ClassVar, Concatenate, Literal, ParamSpec, Self, TypeVar, overload
from warnings import warn

from pgtasks import _state
from pgtasks.app import builtins as builtins  # registers the built-in tasks
from pgtasks.app import bulk, declaration, planned, publish
from pgtasks.app.configuration import Configured
from pgtasks.app.connection import Connections
from pgtasks.app.parts import Parts
from pgtasks.app.pickling import AppPickler, reduce_app
from pgtasks.app.registry import TaskRegistry
from pgtasks.app.task import Task
from pgtasks.asyncresult import AsyncResult
from pgtasks.canvas import Signature, signature
from pgtasks.exceptions import AlwaysEagerIgnored
from pgtasks.local import PromiseProxy, maybe_evaluate
from pgtasks.utils.dispatch import Signal
from pgtasks.utils.functional import head_from_fun
from pgtasks.utils.imports import gen_task_name, symbol_by_name

__all__ = ("Celery",)

P = ParamSpec("P")
R = TypeVar("R")

#: What makes this package a command-line program: called with the arguments and the app.
COMMAND_LINE = "pgtasks.bin.base:main"


class Celery(Configured, Parts, Connections):
    """An application. `main` is the name its tasks get when their module is run as a script.

    `broker` is the URL of the database; without one the environment is asked, and then a private Postgres is
    used. Any further keyword is a setting: `Celery("proj", task_acks_late=True)`.
    """

    Pickler = AppPickler

    main: str | None = None
    #: Integrations, by dotted name, that decide for themselves whether they apply.
    builtin_fixups: ClassVar[Iterable[str]] = frozenset({"pgtasks.contrib.django:fixup"})
    registry_cls: Any = TaskRegistry

    #: Options that a project adds to the command line, as sets under 'preload', 'worker', 'beat', 'events'.
    user_options: defaultdict[str, set[Any]]
    #: Steps that a project adds to the worker, as sets under 'worker' and 'consumer'.
    steps: defaultdict[str, set[Any]]

    #: `Celery[MyTask]`, as typed projects write it, says which class the tasks have.
    __class_getitem__: ClassVar[Any] = classmethod(GenericAlias)

    def __init__(
        self,
        main: str | None = None,
        loader: Any = None,
        backend: Any = None,
        amqp: Any = None,
        events: Any = None,
        log: Any = None,
        control: Any = None,
        set_as_current: bool = True,
        tasks: Any = None,
        broker: str | None = None,
        include: Iterable[str] | None = None,
        changes: dict[str, Any] | None = None,
        config_source: Any = None,
        fixups: Iterable[str] | None = None,
        task_cls: Any = None,
        autofinalize: bool = True,
        namespace: str | None = None,
        strict_typing: bool = True,
        config_source_silent: bool = False,
        **kwargs: Any,
    ) -> None:
        self.main = main
        self.set_as_current = set_as_current
        self.autofinalize = autofinalize
        self.strict_typing = strict_typing
        self._custom_task_cls_used = bool(task_cls) or type(self).task_cls is not Celery.task_cls
        self._using_v1_reduce = type(self).__reduce_args__ is not Celery.__reduce_args__
        self._init_parts(loader=loader, amqp=amqp, events=events, log=log, control=control, task_cls=task_cls)
        self._init_registry(tasks)
        self.user_options = defaultdict(set)
        self.steps = defaultdict(set)
        given = {"broker_url": broker, "result_backend": backend, "include": include, **kwargs}
        self._init_configuration(changes, given, config_source, config_source_silent, namespace)
        self.on_after_finalize = Signal(name="app.on_after_finalize")
        self.on_after_fork = Signal(name="app.on_after_fork")
        self.fixups = set(self.builtin_fixups) if fixups is None else fixups
        self._fixups = [symbol_by_name(fixup)(self) for fixup in self.fixups]
        if set_as_current:
            self.set_current()
        self.on_init()
        _state._register_app(self)

    def _init_registry(self, tasks: Any) -> None:
        self.registry_cls = symbol_by_name(self.registry_cls)
        self._tasks = tasks if isinstance(tasks, TaskRegistry) else self.registry_cls(tasks or {})
        self.finalized = False
        self._finalize_mutex = threading.RLock()
        #: Declared tasks that are not made yet.
        self._pending: deque[Any] = deque()
        self._duplicate_task_names_warned: set[str] = set()

    def on_init(self) -> None:
        """Called at the end of the constructor; a hook for subclasses."""

    # -- life

    def set_current(self) -> None:
        """Make this the current app of this thread."""
        _state._set_current_app(self)

    def set_default(self) -> None:
        """Make this the app of threads that have made none current."""
        _state.set_default_app(self)

    def finalize(self, auto: bool = False) -> None:
        """Make the declared tasks and bind all to the app; by default, the first use of `tasks` does it."""
        with self._finalize_mutex:
            if self.finalized:
                return
            if auto and not self.autofinalize:
                raise RuntimeError("Contract breach: app not finalized")
            self.finalized = True
            _state._announce_app_finalized(self)
            while self._pending:
                maybe_evaluate(self._pending.popleft())
            for task in list(self._tasks.values()):
                task.bind(self)
            self.on_after_finalize.send(sender=self)

    def close(self) -> None:
        """Close connections and be forgotten by shared tasks: for apps that end before the process."""
        self._close_parts()
        _state._deregister_app(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def start(self, argv: list[str] | None = None) -> Any:
        """Run the command line with these arguments, or the process's own."""
        return symbol_by_name(COMMAND_LINE)(sys.argv[1:] if argv is None else argv, app=self)

    def worker_main(self, argv: list[str] | None = None) -> None:
        """Run a worker in this process; `argv` must contain the sub-command `worker`."""
        argv = sys.argv[1:] if argv is None else argv
        if "worker" not in argv:
            raise ValueError(
                "The worker sub-command must be specified in argv.\n"
                "Use app.start() to programmatically start other commands."
            )
        self.start(argv)

    # -- tasks

    @overload
    def task(self, fun: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, *, bind: Literal[True], **opts: Any) -> Callable[[Callable[Concatenate[Any, P], R]], Task[P, R]]: ...
    @overload
    def task(self, *, bind: Literal[False] = ..., **opts: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...

    def task(self, *args: Any, **opts: Any) -> Any:
        """Declare a task: a decorator, with or without options.

        The task is made when it is first used or the app is finalized, so a module can declare tasks before
        its app is configured. Options are attributes of the task, and name=, base=, bind= (the body's first
        argument is the task), shared=, lazy=, filter=, and pydantic= with its pydantic_strict=,
        pydantic_context= and pydantic_dump_kwargs=.
        """
        if not args:
            return lambda fun: self._declare(fun, **opts)
        if len(args) > 1:
            raise TypeError(f"@task() takes exactly 1 argument ({len(args) + len(opts)} given)")
        if not callable(args[0]):
            raise TypeError("argument 1 to @task() must be a callable")
        return self._declare(args[0], **opts)

    def workflow(self, *args: Any, **opts: Any) -> Any:
        """Declare a durable workflow: a decorator as `task` is, with its options and mode=, version= and children=.

        A workflow is a task that remembers: when it is run again, after a crash or a wait, it goes on where it was.
        """
        return self.task(*args, remembers=True, **opts)

    def _declare(
        self,
        fun: Callable[..., Any],
        shared: bool = True,
        filter: Callable[[Any], Any] | None = None,
        lazy: bool = True,
        **opts: Any,
    ) -> Any:
        if shared:
            _state.connect_on_app_finalize(lambda app: app._task_from_fun(fun, **opts))
        task: Any
        if lazy and not self.finalized:
            task = PromiseProxy(self._task_from_fun, (fun,), opts, __doc__=fun.__doc__)
            self._pending.append(task)
        else:
            task = self._task_from_fun(fun, **opts)
        return filter(task) if filter else task

    def _task_from_fun(self, fun: Callable[..., Any], name: str | None = None, **options: Any) -> Any:
        if not self.finalized and not self.autofinalize:
            raise RuntimeError("Contract breach: app not finalized")
        for option, cls in (("remembers", self.workflow_cls), ("transactional", self.transactional_cls)):
            if options.get(option):
                own = options.get("base") or self.Task
                options["base"] = type(option, (symbol_by_name(cls), own), {"abstract": True})
        return declaration.task_from_function(self, fun, name, **options)

    def type_checker(self, fun: Callable[..., Any], bound: bool = False) -> Any:
        """The function that checks the arguments of calls: the body's signature with an empty body."""
        return staticmethod(head_from_fun(fun, bound=bound))

    def register_task(self, task: Any, **options: Any) -> Any:
        """Register a class-based task, given as a class or an instance."""
        return declaration.register_task(self, task, **options)

    def gen_task_name(self, name: str, module: str) -> str:
        """Name a task after its function and module; a hook for subclasses."""
        return gen_task_name(self, name, module)

    @property
    def tasks(self) -> TaskRegistry:
        """The registry; looking at it finalizes the app."""
        if not self.finalized:
            self.finalize(auto=True)
        registry: TaskRegistry = self._tasks
        return registry

    @property
    def current_task(self) -> Any:
        """The task now executing, or None."""
        return _state.get_current_task()

    @property
    def current_worker_task(self) -> Any:
        """The task now executing that was applied, not called as a function; or None."""
        return _state.get_current_worker_task()

    # -- calls

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult[Any]:
        """Have a task run by a worker, by its name, which need not be registered here.

        Options are those of `Task.apply_async`; a task that is registered here lends its own.
        `task_always_eager` has no effect.
        """
        if "task_type" not in options and self.conf.task_always_eager:
            warn(AlwaysEagerIgnored("task_always_eager has no effect on send_task"), stacklevel=2)
        task, options = self._with_own_options(name, options)
        run = _state.current_run.get()
        if run is not None and options.get("conn") is None and not options.get("using"):
            # The code of a workflow makes a task once, however often it is replayed.
            recorded: AsyncResult[Any] = run.publish(
                name, partial(publish.publish, self, task, name, args, kwargs, options)
            )
            return recorded
        result: AsyncResult[Any] = publish.publish(self, task, name, args, kwargs, options)
        return result

    async def asend_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult[Any]:
        """`send_task` for coroutines."""
        if _state.current_run.get() is not None and options.get("conn") is None:
            return self.send_task(name, args, kwargs, **options)
        task, options = self._with_own_options(name, options)
        result: AsyncResult[Any] = await publish.apublish(self, task, name, args, kwargs, options)
        return result

    def _with_own_options(self, name: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Find the task of a call by name and add its options where the caller has said nothing.

        `Task.apply_async` passes itself as task_type and has added them. The registry is looked at as it is:
        to send a message must not finalize the app.
        """
        task = options.pop("task_type", None)
        if task is not None:
            return task, options
        task = self._tasks.get(name)
        if task is None:
            return None, options
        own = {key: value for key, value in task._get_exec_options().items() if value is not None}
        return task, {**own, **options}

    @property
    def sends_plainly(self) -> bool:
        """Is `send_task` the one of this class, rather than a subclass', or a patched one?"""
        return getattr(self.send_task, "__func__", None) is _SEND_TASK

    def enqueue_plan(self, plan: Any, connection: Any = None) -> None:
        """Write a planned canvas, its tasks and their order, in one statement."""
        planned.enqueue_plan(self, plan, connection)

    async def aenqueue_plan(self, plan: Any, connection: Any = None) -> None:
        """`enqueue_plan` for coroutines."""
        await planned.aenqueue_plan(self, plan, connection)

    def send_group(self, group: Any, options: dict[str, Any]) -> Any:
        """Send a group of nothing but plain calls of one task, for little; None when it is something else."""
        return bulk.send_group(group, options)

    async def asend_group(self, group: Any, options: dict[str, Any]) -> Any:
        """`send_group` for coroutines."""
        return await bulk.asend_group(group, options)

    def signature(self, *args: Any, **kwargs: Any) -> Signature:
        """A call as a value, bound to this app."""
        kwargs["app"] = self
        sig: Signature = signature(*args, **kwargs)
        return sig

    # -- as an object

    def __reduce__(self) -> Any:
        return reduce_app(self)

    def __reduce_keys__(self) -> dict[str, Any]:
        """The constructor's arguments that make an app like this one."""
        return {
            "main": self.main,
            "changes": self.conf.changes if self.configured else self._preconf,
            "loader": self.loader_cls,
            "amqp": self.amqp_cls,
            "events": self.events_cls,
            "log": self.log_cls,
            "control": self.control_cls,
            "fixups": self.fixups,
            "config_source": self._config_source,
            "config_source_silent": self._config_source_silent,
            "task_cls": self.task_cls,
            "namespace": self.namespace,
        }

    def __reduce_args__(self) -> tuple[Any, ...]:
        """The same as positional arguments: for subclasses that override it, which then are pickled by it."""
        return (
            self.main,
            self.conf.changes if self.configured else {},
            self.loader_cls,
            None,
            self.amqp_cls,
            self.events_cls,
            self.log_cls,
            self.control_cls,
            False,
            self._config_source,
            self._config_source_silent,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.main or '__main__'} at {id(self):#x}>"


_SEND_TASK = Celery.send_task
App = Celery
