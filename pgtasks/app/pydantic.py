"""Tasks with `pydantic=True`: models as arguments and return values.

The body is wrapped: arguments whose annotation is a model (or an optional one) are validated into it, and a
returned model is dumped when its class is the annotated one. On the caller's side `dump_arguments` turns
models into plain data, but only where the wrapper will rebuild an equal model from it; others are left to the
serializer.
"""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from pgtasks.exceptions import ImproperlyConfigured

__all__ = ("ModelArguments", "validating")


class ModelArguments:
    """What is known about the models in the signature of one task's body."""

    def __init__(
        self,
        app: Any,
        fun: Callable[..., Any],
        task_name: str,
        strict: bool = False,
        context: Mapping[str, Any] | None = None,
        dump_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.BaseModel = _import_base_model()
        self.strict = strict
        self.context = {**(context or {}), "celery_app": app, "celery_task_name": task_name}
        self.dump_kwargs = {"mode": "json", **(dump_kwargs or {})}
        self.signature = inspect.signature(fun)
        try:
            # Annotations are strings under `from __future__ import annotations`.
            self.hints = typing.get_type_hints(fun)
        except (NameError, AttributeError, TypeError):
            self.hints = {}

    # -- in the worker

    def validate(self, args: Any, kwargs: Any) -> inspect.BoundArguments:
        """Bind the arguments and turn plain data into the models they are annotated with."""
        bound = self.signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            model = self._model_of(name, value)
            if model is not None:
                bound.arguments[name] = self._validated(model, value)
        return bound

    def dump_return(self, value: Any) -> Any:
        """Dump a returned model if it is what the body's annotation promises."""
        if not isinstance(value, self.BaseModel):
            return value
        annotation = self.hints.get("return", self.signature.return_annotation)
        promised: Any = _optional_argument(annotation) or annotation
        keeps_it = isinstance(promised, type) and isinstance(value, promised)
        return value.model_dump(**self.dump_kwargs) if keeps_it else value

    def _model_of(self, name: str, value: Any) -> Any:
        annotation = self.hints.get(name, self.signature.parameters[name].annotation)
        if value is not None:
            annotation = _optional_argument(annotation) or annotation
        return annotation if isinstance(annotation, type) and issubclass(annotation, self.BaseModel) else None

    def _validated(self, model: Any, value: Any) -> Any:
        return model.model_validate(value, strict=self.strict, context=self.context)

    # -- in the caller

    def dump_arguments(self, args: Any, kwargs: Any, bound: bool = False) -> tuple[Any, Any]:
        """Dump the models among the arguments; everything else is returned as it is.

        `bound` says that the body's first argument is the task itself.
        """
        given_args = () if args is None else args
        given_kwargs = {} if kwargs is None else kwargs
        if not isinstance(given_args, list | tuple) or not isinstance(given_kwargs, Mapping):
            return args, kwargs
        if not any(isinstance(value, self.BaseModel) for value in (*given_args, *given_kwargs.values())):
            return args, kwargs
        try:
            self.signature.bind(*((None,) if bound else ()), *given_args, **given_kwargs)
        except TypeError:
            return args, kwargs
        positional, by_keyword = self._parameter_names(bound)
        dumped_args = [
            self._dumped(positional[i] if i < len(positional) else None, value) for i, value in enumerate(given_args)
        ]
        dumped_kwargs = {
            key: self._dumped(key if key in by_keyword else None, value) for key, value in given_kwargs.items()
        }
        if any(new is not old for new, old in zip(dumped_args, given_args, strict=True)):
            args = dumped_args if isinstance(given_args, list) else tuple(dumped_args)
        if any(dumped_kwargs[key] is not value for key, value in given_kwargs.items()):
            kwargs = dumped_kwargs
        return args, kwargs

    def _parameter_names(self, bound: bool) -> tuple[list[str], set[str]]:
        """The parameters that positional and keyword arguments go to, without *args and **kwargs."""
        parameters = self.signature.parameters.values()
        positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        by_keyword = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        return positional[1:] if bound else positional, by_keyword

    def _dumped(self, name: str | None, value: Any) -> Any:
        # A model with kombu's __json__ hook knows how it wants to be sent.
        if name is None or not isinstance(value, self.BaseModel) or hasattr(type(value), "__json__"):
            return value
        model = self._model_of(name, value)
        if model is None:
            return value
        try:
            dumped = value.model_dump(**self.dump_kwargs)
            # Equality includes the class: a subclass would come back as the annotated class.
            return dumped if self._validated(model, dumped) == value else value
        except Exception:
            # Validators of the user's that only work on a worker: the serializer decides about the model.
            return value


def validating(fun: Callable[..., Any], models: ModelArguments) -> Callable[..., Any]:
    """Wrap a body so that it is called with models and returns plain data."""
    if inspect.iscoroutinefunction(fun):

        @wraps(fun)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            bound = models.validate(args, kwargs)
            return models.dump_return(await fun(*bound.args, **bound.kwargs))

        return acall

    @wraps(fun)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = models.validate(args, kwargs)
        return models.dump_return(fun(*bound.args, **bound.kwargs))

    return call


def _import_base_model() -> Any:
    try:
        # An optional third party, and slow to import.
        return importlib.import_module("pydantic").BaseModel
    except ModuleNotFoundError as exc:
        raise ImproperlyConfigured("You need to install pydantic to use pydantic model serialization.") from exc


def _optional_argument(annotation: Any) -> Any:
    """The X of `Optional[X]` and `X | None`; None for anything else."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return None
    members = typing.get_args(annotation)
    others = [member for member in members if member is not types.NoneType]
    return others[0] if len(members) == 2 and len(others) == 1 else None
