"""The half of an app that is about its configuration.

Settings come, strongest first, from changes to `app.conf`, the constructor's arguments, the configuration
source and the defaults. The source is read when a setting is first looked at, so that an app can be made in
the module that its configuration imports; until then changes are kept aside.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, tzinfo
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from pgtasks import signals
from pgtasks.app.settings import (
    PendingConfiguration,
    Settings,
    _new_key_to_old,
    _old_key_to_new,
    detect_settings,
)
from pgtasks.canvas import Signature
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.local import maybe_evaluate
from pgtasks.utils.dispatch import Signal
from pgtasks.utils.functional import first
from pgtasks.utils.log import get_logger
from pgtasks.utils.time import timezone

if TYPE_CHECKING:
    from pgtasks.app.loader import BaseLoader

__all__ = ("Configured",)

logger = get_logger("celery.app.base")


class Configured:
    """Reads, changes and completes the configuration of an app."""

    #: The settings, as attributes and as items.
    conf: Any
    #: Seen while the configuration is read: a method of a subclass, or a signal.
    on_configure: Any = None
    on_after_configure: Signal
    loader: BaseLoader
    if TYPE_CHECKING:  # the app makes it when it is asked for

        @property
        def events(self) -> Any: ...

    signature: Callable[..., Signature]

    def _init_configuration(
        self,
        changes: dict[str, Any] | None,
        given: dict[str, Any],
        source: Any,
        silent: bool,
        namespace: str | None,
    ) -> None:
        """Begin with `given`, the constructor's own settings, without reading anything."""
        self.namespace = namespace
        self.configured = False
        self._config_source = source
        self._config_source_silent = silent
        self._pending_defaults: deque[Callable[[], Any]] = deque()
        self._pending_periodic_tasks: deque[Callable[[], None]] = deque()
        self._preconf = changes or {}
        given = {key: value for key, value in given.items() if value is not None}
        self._preconf.update(given)
        # The constructor knows new names only, which says nothing about the style of the user's
        # configuration.
        self._preconf_set_by_auto = set(given)
        pending = PendingConfiguration(self._preconf, self._configure_now)
        self.conf = Settings(pending, prefix=namespace, keys=(_old_key_to_new, _new_key_to_old))
        if self.on_configure is None:
            self.on_configure = Signal(name="app.on_configure")
        self.on_after_configure = Signal(name="app.on_after_configure", providing_args={"source"})

    def _configure_now(self) -> Any:
        try:
            return self._load_config()
        except AttributeError as exc:
            # Attribute lookup on the pending settings takes an AttributeError for an answer and asks again.
            raise ModuleNotFoundError(*exc.args) from exc

    def _load_config(self, afresh: bool = False) -> Any:
        if isinstance(self.on_configure, Signal):
            self.on_configure.send(sender=self)
        else:
            self.on_configure()
        if self._config_source:
            self.loader.config_from_object(self._config_source, silent=self._config_source_silent)
        self.configured = True
        settings = detect_settings(
            self.prepare_config(self.loader.conf),
            self._preconf,
            ignore_keys=self._preconf_set_by_auto,
            prefix=self.namespace,
        )
        if afresh:
            self.conf = settings
        else:
            # In place: somebody may hold a reference to app.conf and go on changing it.
            self.conf.swap_with(settings)
        while self._pending_defaults:
            self.conf.add_defaults(maybe_evaluate(self._pending_defaults.popleft()()))
        while self._pending_periodic_tasks:
            self._pending_periodic_tasks.popleft()()
        if self.conf.task_send_sent_event:
            self.events.tell_of_calls()
        self.on_after_configure.send(sender=self, source=self.conf)
        return self.conf

    def prepare_config(self, config: Any) -> Any:
        """Look at the user's configuration before the defaults are added; a hook for subclasses."""
        return config

    # -- sources

    def add_defaults(self, fun: Any) -> None:
        """Add defaults: a dict, or a function that returns one when the app is configured."""
        provide = fun if callable(fun) else lambda: fun
        if self.configured:
            self.conf.add_defaults(provide())
        else:
            self._pending_defaults.append(provide)

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> Any:
        """Configure from a module, another object or a mapping, or from the dotted name of one.

        Only names that start with `namespace`_ count if there is one. Read when needed, or now with `force`.
        """
        self._config_source = obj
        self._config_source_silent = silent
        self.namespace = namespace or self.namespace
        if (force or self.configured) and self.loader.config_from_object(obj, silent=silent):
            return self._load_config(afresh=True)
        return None

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> Any:
        """Configure from the module that an environment variable names."""
        module = os.environ.get(variable_name)
        if module:
            return self.config_from_object(module, silent=silent, force=force)
        if silent:
            return False
        raise ImproperlyConfigured(
            f"The environment variable {variable_name!r} is not set, and as such the configuration "
            f"could not be loaded. Set it to the name of a module, as in {variable_name}='proj.celeryconfig'."
        )

    def config_from_cmdline(self, argv: Iterable[str], namespace: str = "celery") -> None:
        """Change settings from arguments like `worker.concurrency=4`."""
        self.conf.update(self.loader.cmdline_config_parser(argv, namespace))

    # -- tasks that the configuration brings along

    def autodiscover_tasks(
        self,
        packages: Iterable[str] | Callable[[], Iterable[str]] | None = None,
        related_name: str | None = "tasks",
        force: bool = False,
    ) -> None:
        """Import the `related_name` module of every package when a worker imports the task modules, or now.

        Without packages the integrations are asked, as Django's for the installed apps.
        """
        discover = partial(self._autodiscover_tasks, packages, related_name)
        if force:
            discover()
        else:
            signals.import_modules.connect(discover, weak=False, sender=self)

    def _autodiscover_tasks(self, packages: Any, related_name: str | None, **kwargs: Any) -> None:
        if not packages:
            finders = [fixup for fixup in self._fixups if hasattr(fixup, "autodiscover_tasks")]
            packages = [package for fixup in finders for package in fixup.autodiscover_tasks()]
        self.loader.autodiscover_tasks(packages() if callable(packages) else packages, related_name)

    _fixups: list[Any]

    def add_periodic_task(
        self, schedule: Any, sig: Any, args: Any = (), kwargs: Any = (), name: str | None = None, **opts: Any
    ) -> str:
        """Add a task to `beat_schedule` and return its key there: `name`, or the signature's repr.

        `sig` is a signature or a task; a later entry with the same key replaces an earlier one.
        """
        sig = (
            sig.clone(args, kwargs or {})
            if isinstance(sig, Signature)
            else self.signature(sig.name, args, kwargs or {})
        )
        key = name or repr(sig)
        entry = {
            "schedule": schedule,
            "task": sig.name,
            "args": sig.args,
            "kwargs": sig.kwargs,
            "options": {**sig.options, **opts},
        }
        add = partial(self._add_periodic_task, key, entry, named=name is not None)
        if self.configured:
            add()
        else:
            self._pending_periodic_tasks.append(add)
        return key

    def _add_periodic_task(self, key: str, entry: dict[str, Any], named: bool) -> None:
        if not named and key in self.conf.beat_schedule:
            logger.warning(
                "Periodic task key='%s' shadowed a previous unnamed periodic task. "
                "Pass a name kwarg to add_periodic_task to silence this warning.",
                key,
            )
        self.conf.beat_schedule[key] = entry

    # -- settings with logic

    def either(self, default_key: str, *defaults: Any) -> Any:
        """The first of `defaults` that is not None, else the setting."""
        given = first(None, defaults)
        return self.conf.get(default_key) if given is None else given

    @cached_property
    def timezone(self) -> tzinfo:
        """The zone of the `timezone` setting; without it UTC, or the machine's if `enable_utc` is off."""
        conf = self.conf
        if conf.timezone:
            zone: tzinfo = timezone.get_timezone(conf.timezone)
            return zone
        return timezone.utc if conf.enable_utc else timezone.local

    def uses_utc_timezone(self) -> bool:
        return bool(self.timezone == timezone.utc)

    def now(self) -> datetime:
        """The time now, in the app's time zone."""
        return datetime.now(UTC).astimezone(self.timezone)
