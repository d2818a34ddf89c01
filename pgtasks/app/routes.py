"""`task_routes`: which queue a call goes to.

The setting is one router or a list of them. A router is a dict `{task name, glob or compiled regex: route}`
(or the same as a list of pairs), a function `(name, args, kwargs, options, task=None, **kw)`, an object with
`route_for_task(name, args, kwargs)`, or the dotted name of either. A route is a queue name or a dict of
options for `apply_async`. The first router that answers wins, and options of the call win over the route.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

from kombu.entity import Queue

from pgtasks.exceptions import QueueNotFound
from pgtasks.utils.functional import maybe_evaluate, mlazy
from pgtasks.utils.imports import symbol_by_name

__all__ = ("MapRoute", "Router", "expand_router_string", "prepare")

Options = dict[str, Any]


class MapRoute:
    """The dict form of a router: exact names first, then patterns in their order."""

    def __init__(self, map: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> None:
        self.map: dict[str, Any] = {}
        self.patterns: dict[re.Pattern[str], Any] = {}
        for name, route in map.items() if isinstance(map, Mapping) else map:
            if isinstance(name, re.Pattern):
                self.patterns[name] = route
            elif "*" in name:
                self.patterns[re.compile(fnmatch.translate(name))] = route
            else:
                self.map[name] = route

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Options | None:
        if name in self.map:
            return _as_options(self.map[name])
        for pattern, route in self.patterns.items():
            if pattern.match(name):
                return _as_options(route)
        return None


def _as_options(route: Any) -> Options:
    return {"queue": route} if isinstance(route, str) else dict(route)


class Router:
    """Decides the destination of calls from the routes and the declared queues."""

    def __init__(
        self,
        routes: Sequence[Any] | None = None,
        queues: MutableMapping[str, Any] | None = None,
        create_missing: bool = False,
        app: Any = None,
    ) -> None:
        self.app = app
        self.queues = {} if queues is None else queues
        self.routes = [] if routes is None else routes
        self.create_missing = create_missing

    def route(
        self,
        options: Options,
        name: str,
        args: Any = (),
        kwargs: Any = None,
        task_type: Any = None,
    ) -> Options:
        """Return the options of a call completed by its route; 'queue' is then a declared `kombu.Queue`."""
        options = self.expand_destination(options)
        if self.routes:
            route = self.lookup_route(name, args, kwargs or {}, options, task_type)
            if route:
                return _fill(self.expand_destination(route), options)
        if "queue" not in options:
            return _fill(self.expand_destination(self.app.conf.task_default_queue), options)
        return options

    def expand_destination(self, route: Any) -> Options:
        """Replace the name of a queue by its declaration; raises `QueueNotFound` for an undeclared one."""
        if isinstance(route, str):
            queue, route = route, {}
        else:
            queue = route.pop("queue", None)
        if queue:
            route["queue"] = queue if isinstance(queue, Queue) else self._declared(queue)
        expanded: Options = route
        return expanded

    def _declared(self, name: str) -> Any:
        try:
            return self.queues[name]
        except KeyError:
            raise QueueNotFound(
                f"Queue {name!r} missing from task_queues. Declare it there, "
                "or allow undeclared queues with task_create_missing_queues."
            ) from None

    def lookup_route(
        self,
        name: str,
        args: Any = None,
        kwargs: Any = None,
        options: Options | None = None,
        task_type: Any = None,
    ) -> Any:
        """Ask the routers in turn; None when no router knows the task."""
        for router in self.routes:
            route = self._ask(maybe_evaluate(router), name, args, kwargs, options, task_type)
            if route is not None:
                return route
        return None

    @staticmethod
    def _ask(router: Any, name: str, args: Any, kwargs: Any, options: Any, task_type: Any) -> Any:
        if hasattr(router, "route_for_task"):
            return router.route_for_task(name, args, kwargs)
        return router(name, args, kwargs, options, task=task_type)


def _fill(defaults: Options, options: Options) -> Options:
    """Complete `options`, where None means not said."""
    return {**defaults, **{key: value for key, value in options.items() if value is not None}}


def expand_router_string(router: str) -> Any:
    """Import a router by its dotted name; a class with `route_for_task` is instantiated."""
    found = symbol_by_name(router)
    return found() if isinstance(found, type) and hasattr(found, "route_for_task") else found


def prepare(setting: Any) -> Sequence[Any]:
    """Turn the value of `task_routes` into routers."""
    if setting is None:
        return ()
    if not isinstance(setting, list | tuple):
        setting = (setting,)
    return [_prepare_one(route) for route in setting]


def _prepare_one(route: Any) -> Any:
    if isinstance(route, str):
        # Lazy: the module of a router may import tasks, so it waits for the first call.
        return mlazy(expand_router_string, route)
    return MapRoute(route) if isinstance(route, Mapping | list | tuple) else route
