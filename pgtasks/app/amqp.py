"""`app.amqp`: the queues an app knows and the way to them.

Queues are declared with kombu's `Queue` and `Exchange`, as in Celery. In Postgres a queue is a name on a row,
so a declaration serves two ends: its name is what a worker consumes, and its exchange and routing key say
which queues a call gets that names only those, by the rules of AMQP's direct, topic and fanout exchanges.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from textwrap import indent as indent_text
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from kombu.entity import Exchange, Queue

from pgtasks.app import routes as _routes

__all__ = ("AMQP", "Destination", "Queues")

QUEUE_FORMAT = ".> {0.name:<16} exchange={0.exchange.name}({0.exchange.type}) key={0.routing_key}"


class Queues(dict[str, Any]):
    """Queue name to declaration; an unknown name is declared on first use if `create_missing`."""

    #: What a worker consumes when a subset has been selected; the other queues are then for routing only.
    _selected: dict[str, Any] | None = None

    def __init__(
        self,
        queues: Any = None,
        default_exchange: Any = None,
        create_missing: bool = True,
        autoexchange: Any = None,
        default_routing_key: str | None = None,
    ) -> None:
        super().__init__()
        self.aliases: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self.default_exchange = default_exchange
        self.default_routing_key = default_routing_key
        self.create_missing = create_missing
        self.autoexchange = Exchange if autoexchange is None else autoexchange
        if queues is not None and not isinstance(queues, Mapping):
            queues = {queue.name: queue for queue in queues}
        for name, queue in (queues or {}).items():
            if isinstance(queue, Queue):
                self.add(queue)
            else:
                self.add(name, **queue)
        self._unselected = dict(self)

    def __getitem__(self, name: str) -> Any:
        aliased = self.aliases.get(name)
        return super().__getitem__(name) if aliased is None else aliased

    def __setitem__(self, name: str, queue: Any) -> None:
        if self.default_exchange and not queue.exchange:
            queue.exchange = self.default_exchange
        if not queue.routing_key:
            queue.routing_key = self.default_routing_key
        super().__setitem__(name, queue)
        if queue.alias:
            self.aliases[queue.alias] = queue

    def __missing__(self, name: str) -> Any:
        if not self.create_missing:
            raise KeyError(name)
        return self.add(self.new_missing(name))

    def add(self, queue: Any, **declaration: Any) -> Any:
        """Declare a queue: a `kombu.Queue`, or a name with exchange=, exchange_type=, routing_key=, ..."""
        if not isinstance(queue, Queue):
            if declaration.get("routing_key") is None:
                declaration["routing_key"] = declaration.get("binding_key") or queue
            queue = Queue.from_dict(queue, **declaration)
        if self.default_exchange and (queue.exchange is None or queue.exchange.name == ""):
            queue.exchange = self.default_exchange
        self[queue.name] = queue
        return queue

    def select_add(self, queue: Any, **declaration: Any) -> Any:
        """Declare a queue and consume it even if only others have been selected."""
        queue = self.add(queue, **declaration)
        self.consume_from[queue.name] = queue
        return queue

    def select(self, include: str | Iterable[str] | None) -> None:
        """Consume these queues only; nothing changes when none is named."""
        if include:
            chosen = [self[name] for name in _listed(include)]
            self._selected = {queue.name: queue for queue in chosen}

    def deselect(self, exclude: str | Iterable[str] | None) -> None:
        """Do not consume these queues."""
        for name in _listed(exclude or ()):
            aliased = self.aliases.get(name)
            self.consume_from.pop(name if aliased is None else aliased.name, None)

    def new_missing(self, name: str) -> Any:
        return Queue(name, self.autoexchange(name), name)

    @property
    def consume_from(self) -> dict[str, Any]:
        """What a worker consumes."""
        return self._unselected if self._selected is None else self._selected

    def format(self, indent: int = 0, indent_first: bool = True) -> str:
        """Describe the consumed queues, for the worker's banner."""
        lines = [QUEUE_FORMAT.format(queue) for _, queue in sorted(self.consume_from.items())]
        text = indent_text("\n".join(lines), " " * indent)
        return text if indent_first else text[indent:]


def _listed(names: str | Iterable[str]) -> Iterable[str]:
    return (names,) if isinstance(names, str) else names


class Destination(NamedTuple):
    """Where a call goes, and how Celery's headers, events and signals would describe the way."""

    queues: tuple[str, ...]
    exchange: str
    routing_key: str


#: The class under a name that the factory method below does not hide.
_Queues = Queues


class AMQP:
    """The queues and the router of one app."""

    queues_cls = Queues
    #: Makes the exchange of a queue that was not declared.
    autoexchange: Any = None

    #: Longest representation of the arguments, in characters, in logs, events and `inspect`.
    argsrepr_maxsize = 1024
    kwargsrepr_maxsize = 1024

    def __init__(self, app: Any) -> None:
        self.app = app
        self._routes_setting: Any = None
        self._routes: Any = ()
        self._router: _routes.Router | None = None
        self._known_default: tuple[Any, Destination] | None = None

    def Queues(self, queues: Any, create_missing: bool | None = None, autoexchange: Any = None) -> _Queues:
        """Declare `queues`, or the default queue when there are none, with the app's defaults."""
        conf = self.app.conf
        routing_key = conf.task_default_routing_key
        if not queues and conf.task_default_queue:
            queues = (Queue(conf.task_default_queue, exchange=self.default_exchange, routing_key=routing_key),)
        return self.queues_cls(
            queues,
            default_exchange=self.default_exchange,
            create_missing=conf.task_create_missing_queues if create_missing is None else create_missing,
            autoexchange=self.autoexchange if autoexchange is None else autoexchange,
            default_routing_key=routing_key,
        )

    @cached_property
    def queues(self) -> _Queues:
        return self.Queues(self.app.conf.task_queues)

    @cached_property
    def default_exchange(self) -> Any:
        conf = self.app.conf
        return Exchange(conf.task_default_exchange, conf.task_default_exchange_type)

    @property
    def default_queue(self) -> Any:
        return self.queues[self.app.conf.task_default_queue]

    @property
    def routes(self) -> Any:
        self._follow_setting()
        return self._routes

    @property
    def router(self) -> _routes.Router:
        self._follow_setting()
        if self._router is None:
            self._router = self.Router()
        return self._router

    def Router(self, queues: Any = None, create_missing: bool | None = None) -> _routes.Router:
        if create_missing is None:
            create_missing = self.app.conf.task_create_missing_queues
        return _routes.Router(self.routes, queues or self.queues, create_missing, app=self.app)

    def flush_routes(self) -> None:
        """Read `task_routes` again, also when it is the same object with other content."""
        self._routes_setting = self.app.conf.task_routes
        self._routes = _routes.prepare(self._routes_setting)
        self._router = None

    def _follow_setting(self) -> None:
        # Settings may be changed at any time and have no observers: one comparison per call tells.
        if self.app.conf.task_routes is not self._routes_setting:
            self.flush_routes()

    def route(
        self, options: dict[str, Any], name: str, args: Any, kwargs: Any, task: Any = None
    ) -> tuple[dict[str, Any], Destination]:
        """Complete the options of a call by its route, and say where they lead.

        A router given as the option `router` is asked in place of the app's.
        """
        router = options.get("router")
        if router is None:
            router = self.router
            get = options.get
            says_where = get("queue") or get("exchange") or get("routing_key") or get("exchange_type")
            if not router.routes and not says_where:
                # Most calls: no route has anything to say, and the default queue is nobody's surprise.
                return options, self._default_destination()
        options = router.route(options, name, args, kwargs, task)
        return options, self.destination(options)

    def _default_destination(self) -> Destination:
        queue = self.default_queue
        if self._known_default is None or self._known_default[0] is not queue:
            self._known_default = queue, self.destination({})
        return self._known_default[1]

    def destination(self, options: dict[str, Any]) -> Destination:
        """Say where routed options lead.

        An exchange other than the default one, given with a routing key, leads to every declared queue that
        is bound to it; if none is, or a queue is given without them, the queue it is.
        """
        queue, exchange, routing_key = (
            options.get("queue"),
            options.get("exchange"),
            options.get("routing_key"),
        )
        if queue is None:
            queue = self.default_queue
        elif isinstance(queue, str):
            queue = self.queues[queue]
        declared = queue.exchange
        kind = options.get("exchange_type") or (declared.type if declared is not None else None) or "direct"
        if kind == "direct" and not (exchange and routing_key):
            return Destination((queue.name,), "", queue.name)
        if exchange is None:
            exchange = declared if declared is not None and declared.name else self.default_exchange
            routing_key = routing_key or queue.routing_key or self.app.conf.task_default_routing_key
        name = str(getattr(exchange, "name", exchange))
        routing_key = routing_key or ""
        bound = tuple(q.name for q in list(self.queues.values()) if _is_bound(q, name, routing_key))
        return Destination(bound or (queue.name,), name, routing_key)


def _is_bound(queue: Any, exchange: str, routing_key: str) -> bool:
    """Would AMQP copy a message for this exchange and routing key to the queue?"""
    declared = queue.exchange
    if declared is None or not declared.name or declared.name != exchange:
        return False
    if declared.type == "fanout":
        return True
    if declared.type == "topic":
        return bool(_topic_pattern(queue.routing_key or "").fullmatch(routing_key))
    return bool(queue.routing_key == routing_key)


def _topic_pattern(binding: str) -> re.Pattern[str]:
    """AMQP's topic patterns: `*` is one word, `#` any number of words, words are separated by dots."""
    pattern = re.escape(binding).replace(r"\*", r"[^.]+")
    pattern = pattern.replace(r"\.\#", r"(\..+)?").replace(r"\#\.", r"(.+\.)?").replace(r"\#", ".*")
    return re.compile(pattern)
