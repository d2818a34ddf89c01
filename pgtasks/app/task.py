"""`Task`: a function that can be called later, elsewhere.

There is one instance per task name and app; everything about a particular call is in `task.request`. An
attribute that is None takes its value from the configuration when the task is bound to its app. The type
parameters are the body's: `delay`, `s` and their kind are checked against its signature.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar, overload

from pgtasks import _state
from pgtasks.app import bulk, eager, replacing, retrying
from pgtasks.app.annotations import resolve_all as resolve_all_annotations
from pgtasks.app.context import Context, get_actual_ignore_result
from pgtasks.app.flows import Controlled, read_declaration
from pgtasks.app.registry import _unpickle_task_v2
from pgtasks.canvas import Signature, chunks, signature, xmap, xstarmap
from pgtasks.exceptions import MaxRetriesExceededError, OperationalError
from pgtasks.result import AsyncResult, denied_join_result
from pgtasks.utils.threads import LocalStack

__all__ = ("Context", "Task", "get_actual_ignore_result")

P = ParamSpec("P")
R = TypeVar("R")
Awaited = TypeVar("Awaited")

#: Attributes of a task that are options of its calls.
EXEC_OPTIONS = (
    *("queue", "routing_key", "exchange", "priority", "expires", "serializer", "delivery_mode", "compression"),
    *("time_limit", "soft_time_limit", "immediate", "mandatory"),
)


class _BoundApp:
    """The attribute `app` of a task class and of its instances; who looks at it first binds the task to its app."""

    def __get__(self, task: Any, owner: Any) -> Any:
        return owner._get_app()

    def __set__(self, task: Any, app: Any) -> None:
        type(task).bind(app)


class Task(Controlled, Generic[P, R]):
    """Base class of all tasks: subclass it for `base=`, or give a subclass to `app.register_task`."""

    __trace__: Any = None
    __header__: Callable[..., Any]
    __bound__ = False

    MaxRetriesExceededError = MaxRetriesExceededError
    OperationalError = OperationalError

    #: Classes by which a worker takes the task over, or their names; hooks of a `Request` are told what came of it.
    Strategy: Any = "pgtasks.worker.strategy:default"
    Request: Any = "pgtasks.worker.request:Request"

    app = _BoundApp()
    _app: Any = None

    name: Any = None

    #: Check the arguments of a call against the signature of the body; `Celery(strict_typing=)` by default.
    typing: bool | None = None

    #: How often the task may retry itself; None is without end.
    max_retries: int | None = 3
    #: Seconds until a retry that does not say when.
    default_retry_delay: float = 3 * 60

    #: Most starts per time, as in '100/s', '100/m', '100/h'.
    rate_limit: Any = None
    #: Drop the return value; errors too, unless `store_errors_even_if_ignored`.
    ignore_result: Any = None
    store_errors_even_if_ignored: bool | None = None
    #: Remember the results of tasks called by this one, as `AsyncResult.children`.
    trail = True
    #: Send monitoring events about the task.
    send_events = True
    #: Name of the serializer of the arguments.
    serializer: str | None = None

    #: Seconds after which the process running the task is killed, or an exception is raised in the task.
    time_limit: float | None = None
    soft_time_limit: float | None = None

    #: Record when a worker starts the task.
    track_started: bool | None = None

    #: True: a task whose worker dies is given to another. False: at most once, it fails with WorkerLostError.
    acks_late: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    acks_on_failure: bool | None = None
    acks_on_timeout: bool | None = None
    reject_on_worker_lost: bool | None = None
    #: Count a lost worker as a retry.
    retry_on_worker_lost: bool | None = None

    #: Exceptions that are no surprise: a failure with one of them is logged as information, not as an error.
    throws: Any = ()

    expires: Any = None
    #: Higher is more urgent.
    priority: int | None = None
    #: Longest representation of a result, in characters, in logs and events.
    resultrepr_maxsize = 1024

    #: The requests being executed in this thread or coroutine, the current one on top.
    request_stack: Any = None
    _default_request: Context | None = None

    #: Is it a workflow: does it go on, when it is run again, where it was?
    remembers = False
    #: Is the task's completion committed with its own writes, and in whose transaction? See `pgtasks.app.transactional`.
    transactional: Any = None

    abstract = True
    _exec_options: dict[str, Any] | None = None
    #: For tasks with `pydantic=True`: turns models given by a caller into what the serializer can write.
    _dump_pydantic_arguments: Callable[..., Any] | None = None
    _backend: Any = None

    #: Attributes that take the value of a setting where they are None.
    from_config: ClassVar[tuple[tuple[str, str], ...]] = (
        ("serializer", "task_serializer"),
        ("rate_limit", "task_default_rate_limit"),
        ("priority", "task_default_priority"),
        ("time_limit", "task_time_limit"),
        ("soft_time_limit", "task_soft_time_limit"),
        ("track_started", "task_track_started"),
        ("acks_late", "task_acks_late"),
        ("acks_on_failure_or_timeout", "task_acks_on_failure_or_timeout"),
        ("acks_on_failure", "task_acks_on_failure"),
        ("acks_on_timeout", "task_acks_on_timeout"),
        ("reject_on_worker_lost", "task_reject_on_worker_lost"),
        ("retry_on_worker_lost", "task_retry_on_worker_lost"),
        ("ignore_result", "task_ignore_result"),
        ("store_eager_result", "task_store_eager_result"),
        ("store_errors_even_if_ignored", "task_store_errors_even_if_ignored"),
    )

    # -- binding

    @classmethod
    def bind(cls, app: Any) -> Any:
        """Make `app` the task's app and take the settings needed; the first time, apply annotations."""
        was_bound, cls.__bound__ = cls.__bound__, True
        cls._app = app
        cls._exec_options = None
        if cls.typing is None:
            cls.typing = app.strict_typing
        conf = app.conf
        for attribute, setting in cls.from_config:
            if getattr(cls, attribute, None) is None:
                setattr(cls, attribute, conf[setting])
        acks = True if cls.acks_on_failure_or_timeout is None else cls.acks_on_failure_or_timeout
        cls.acks_on_failure = acks if cls.acks_on_failure is None else cls.acks_on_failure
        cls.acks_on_timeout = acks if cls.acks_on_timeout is None else cls.acks_on_timeout
        if not was_bound:
            cls.annotate()
            cls.request_stack = LocalStack()
        if cls.flow or cls.unique or cls.debounce is not None:
            read_declaration(cls)
        cls.on_bound(app)
        return app

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Called when the task is bound to an app; a hook for subclasses."""

    @classmethod
    def _get_app(cls) -> Any:
        if cls._app is None:
            cls._app = _state.current_app
        if not cls.__bound__:
            # A class body that says `app = ...` does not pass through bind.
            cls.bind(cls._app)
        return cls._app

    @classmethod
    def annotate(cls) -> None:
        """Apply the `task_annotations` setting."""
        for attributes in resolve_all_annotations(cls._get_app().annotations, cls):
            for name, value in attributes.items():
                if name.startswith("@"):
                    cls.add_around(name[1:], value)
                else:
                    setattr(cls, name, value)

    @classmethod
    def add_around(cls, attr: str, around: Callable[[Any], Any]) -> None:
        """Wrap a method by the decorator `around`, in place of a wrapper added before."""
        original = getattr(cls, attr)
        original = getattr(original, "__wrapped__", None) or original
        method = around(original)
        method.__wrapped__ = original
        setattr(cls, attr, method)

    # -- running

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The body of the task."""
        raise NotImplementedError("Tasks must define the run method.")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the body here and now, as a plain function call."""
        stack = self.request_stack
        request = stack.top
        if request and len(stack) == 1 and not request._protected and _is_for_worker(request):
            # A custom __call__ calling this one: the request is already in place.
            request._protected = 1
            return self.run(*args, **kwargs)
        run = _state.current_run.get()
        if run is not None and not self.remembers:
            # In the code of a workflow, a call is a step.
            value: R = run.call(self, args, kwargs)
            return value
        _state.push_current_task(self)
        self.push_request(args=args, kwargs=kwargs)
        try:
            return self.run(*args, **kwargs)
        finally:
            self.pop_request()
            _state.pop_current_task()

    apply = eager.apply
    aapply = eager.aapply

    # -- calling

    @overload
    def delay(
        self: Task[P, Coroutine[Any, Any, Awaited]], *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResult[Awaited]: ...
    @overload
    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]: ...

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[Any]:
        """Have the task run by a worker, with these arguments."""
        return self.apply_async(args, kwargs)

    @overload
    async def adelay(
        self: Task[P, Coroutine[Any, Any, Awaited]], *args: P.args, **kwargs: P.kwargs
    ) -> AsyncResult[Awaited]: ...
    @overload
    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]: ...

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[Any]:
        """`delay` for coroutines."""
        return await self.aapply_async(args, kwargs)

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Have the task run by a worker.

        Options are Celery's: countdown or eta, expires, queue, priority, time_limit, ..., and conn= or using=
        to enqueue in a transaction of the caller's. Raises `TypeError` for arguments the body does not take,
        `ValueError` when the soft time limit is above the hard one, `OperationalError` when the database
        cannot be reached.
        """
        args, kwargs, shadow, options = self._prepare_call(args, kwargs, shadow, options)
        app = self._get_app()
        if app.conf.task_always_eager:
            args, kwargs = eager.through_serializer(app, args, kwargs, options.get("serializer"))
            with denied_join_result():
                return self.apply(args, kwargs, task_id=task_id, link=link, link_error=link_error, **options)
        result: AsyncResult[R] = app.send_task(
            self.name,
            args,
            kwargs,
            task_id=task_id,
            producer=producer,
            link=link,
            link_error=link_error,
            result_cls=self.AsyncResult,
            shadow=shadow,
            task_type=self,
            **options,
        )
        return result

    async def aapply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """`apply_async` for coroutines."""
        args, kwargs, shadow, options = self._prepare_call(args, kwargs, shadow, options)
        app = self._get_app()
        if app.conf.task_always_eager:
            args, kwargs = eager.through_serializer(app, args, kwargs, options.get("serializer"))
            with denied_join_result():
                return await self.aapply(args, kwargs, task_id=task_id, link=link, link_error=link_error, **options)
        result: AsyncResult[R] = await app.asend_task(
            self.name,
            args,
            kwargs,
            task_id=task_id,
            link=link,
            link_error=link_error,
            result_cls=self.AsyncResult,
            shadow=shadow,
            task_type=self,
            **options,
        )
        return result

    delay_many = bulk.delay_many
    adelay_many = bulk.adelay_many
    apply_async_many = bulk.apply_async_many
    aapply_async_many = bulk.aapply_async_many

    def _prepare_call(
        self, args: Any, kwargs: Any, shadow: str | None, options: dict[str, Any]
    ) -> tuple[Any, Any, str | None, dict[str, Any]]:
        """Check a call and complete its options by the task's."""
        if self.soft_time_limit and self.time_limit and self.soft_time_limit > self.time_limit:
            raise ValueError("soft_time_limit must be less than or equal to time_limit")
        if self.typing:
            check = getattr(self, "__header__", None)
            if check is not None:
                check(*(args or ()), **(kwargs or {}))
        shadow = shadow or self.shadow_name(args, kwargs, options)
        options = {**self._get_exec_options(), **options}
        # Pickle writes models as they are.
        if self._dump_pydantic_arguments is not None and options.get("serializer") != "pickle":
            args, kwargs = self._dump_pydantic_arguments(args, kwargs)
        options.setdefault("ignore_result", self.ignore_result)
        return args, kwargs, shadow, options

    def _get_exec_options(self) -> dict[str, Any]:
        if self._exec_options is None:
            self._exec_options = {name: getattr(self, name, None) for name in EXEC_OPTIONS}
        return self._exec_options

    def shadow_name(self, args: Any, kwargs: Any, options: dict[str, Any]) -> str | None:
        """Return a name for logs and monitors that tells this call from others; a hook for subclasses."""
        return None

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AsyncResult[R]:
        """The result of a call of this task, by its id."""
        result: AsyncResult[R] = self._get_app().AsyncResult(
            task_id, backend=self.backend, task_name=self.name, **kwargs
        )
        return result

    # -- signatures

    def signature(self, args: Any = None, *starargs: Any, **starkwargs: Any) -> Signature:
        """A call of this task as a value: arguments and options, not yet sent."""
        starkwargs.setdefault("app", self.app)
        sig: Signature = signature(self, args, *starargs, **starkwargs)
        return sig

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """`signature` with the arguments as they are; partial, as in a chain, so they are not checked yet."""
        return self.signature(args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature:
        """An immutable signature: it takes no result of a predecessor."""
        return self.signature(args, kwargs, immutable=True)

    def chunks(self, it: Iterable[Any], n: int) -> Any:
        """Call the task for every tuple of arguments, n of them in one message."""
        return chunks(self.s(), it, n, app=self.app)

    def map(self, it: Iterable[Any]) -> Any:
        """Call the task for every argument, all in one message."""
        return xmap(self.s(), it, app=self.app)

    def starmap(self, it: Iterable[Any]) -> Any:
        """Call the task for every tuple of arguments, all in one message."""
        return xstarmap(self.s(), it, app=self.app)

    # -- for the running task

    @property
    def request(self) -> Context:
        """What is known about the call being executed; empty defaults outside of one."""
        stack = self.request_stack
        request: Context | None = stack.top if stack is not None else None
        if request is not None:
            return request
        if self._default_request is None:
            self._default_request = Context()
        return self._default_request

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        self.request_stack.push(Context(*args, **{**self.request.__dict__, **kwargs}))

    def pop_request(self) -> None:
        self.request_stack.pop()

    retry = retrying.retry
    signature_from_request = retrying.signature_from_request
    subtask_from_request = retrying.signature_from_request
    replace = replacing.replace
    on_replace = replacing.on_replace
    add_to_chord = replacing.add_to_chord

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        """Publish a state of the task's own, such as progress; of another task with `task_id`."""
        task_id = self.request.id if task_id is None else task_id
        self.backend.store_result(task_id, meta, state, request=self.request, **kwargs)

    def send_event(self, type_: str, retry: bool = True, retry_policy: Any = None, **fields: Any) -> Any:
        """Send a monitoring event about the running call; `fields` must be JSON."""
        request = self.request
        if retry_policy is None:
            retry_policy = self.app.conf.task_publish_retry_policy
        with self.app.events.default_dispatcher(hostname=request.hostname) as dispatcher:
            return dispatcher.send(type_, uuid=request.id, retry=retry, retry_policy=retry_policy, **fields)

    def add_trail(self, result: Any) -> Any:
        """Remember a result among the children of the running call."""
        if self.trail:
            self.request.children.append(result)
        return result

    # -- hooks

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called before the body."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called when the body has returned."""

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when the task will be run again."""

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when the task has failed."""

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when the task has succeeded or failed, `retval` being the result or the exception."""

    # -- what the class says about itself

    @classmethod
    def overrides(cls, method: str) -> bool:
        """Does the class have a `__call__`, or a hook, of its own?"""
        return getattr(cls, method) is not _OWN_METHODS[method]

    @property
    def sends_plainly(self) -> bool:
        """Is `apply_async` the one of this class, rather than a subclass', or a patched one?"""
        return getattr(self.apply_async, "__func__", None) is _OWN_METHODS["apply_async"]

    @property
    def is_coroutine(self) -> bool:
        """Is the body a coroutine function? Monitoring libraries put a plain function around it, in the instance."""
        return inspect.iscoroutinefunction(type(self).run)

    # -- as an object

    @property
    def backend(self) -> Any:
        """Where results are: the app's backend unless another was set."""
        return self.app.backend if self._backend is None else self._backend

    @backend.setter
    def backend(self, backend: Any) -> None:
        self._backend = backend

    @property
    def __name__(self) -> str:
        name: str = type.__getattribute__(type(self), "__name__")
        return name

    def __reduce__(self) -> Any:
        # By name: the receiver has its own instance, perhaps only after importing the module.
        module = type(self).__module__
        return _unpickle_task_v2, (self.name, module if module in sys.modules else None), None

    def __repr__(self) -> str:
        app = self._app
        where = None if app is None else f"{app.main or '__main__'} at {id(app):#x}"
        return f"<@task: {self.name} of {where}>"


def _is_for_worker(request: Context) -> bool:
    # Only a worker says where it runs: a request that a test has pushed is a call like any other.
    return not request.called_directly and not request.is_eager and request.hostname is not None


#: The methods as they are here, to tell when a subclass, or a patch of this class, has put another in place.
_OWN_METHODS = {
    name: getattr(Task, name)
    for name in ("__call__", "apply_async", "shadow_name", "before_start", "on_success", "after_return")
}

BaseTask = Task
