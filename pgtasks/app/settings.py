"""An app's settings: what the user configured over the defaults.

    app._preconf            what was set before the configuration was read: app.conf.x = ..., Celery(x=...)
        + source            the configuration module, object or dict, or None
        + DEFAULTS          pgtasks.app.defaults
        = detect_settings(source, preconf, ignore_keys, prefix) -> Settings

Until then `app.conf` is a `Settings` over a `PendingConfiguration`, which keeps assignments and asks the app
to read its configuration when something is looked up; `conf.swap_with(settings)` then turns it into the real
one, in place, because somebody may hold a reference.

A setting is found as an attribute or an item, under its name, with the namespace's prefix (`CELERY_...`), or
under its old-style name (`CELERYD_...`). Settings of both styles in one configuration are refused, as in
Celery, and so are those whose absence would be unsafe. Unknown names are kept; one that looks like a typing
error gives a warning.
"""

import difflib
import os
import re
import warnings
from collections import UserDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from types import ModuleType
from typing import Any, NamedTuple

from pgtasks.app.defaults import (
    _OLD_DEFAULTS,
    _OLD_SETTING_KEYS,
    _TO_NEW_KEY,
    _TO_OLD_KEY,
    DEFAULTS,
    OPTIONS,
    SETTING_KEYS,
    Effect,
    find,
)
from pgtasks.exceptions import CDeprecationWarning, ImproperlyConfigured, UnknownSettingWarning
from pgtasks.utils.collections import AttributeDictMixin, ConfigurationView, DictAttribute, KeyConversion
from pgtasks.utils.text import mask_url, pretty

__all__ = ("PendingConfiguration", "Settings", "detect_settings", "filter_hidden_settings")

#: Settings whose value is nobody else's business; what Django hides, and more.
HIDDEN_SETTINGS = re.compile("API|TOKEN|KEY|SECRET|PASS|PROFANITIES_LIST|SIGNATURE|DATABASE|BEAT_DBURI", re.IGNORECASE)
MASK = "********"

E_MIX_OLD_INTO_NEW = """

Cannot mix new and old setting keys, please rename the
following settings to the new format:

{renames}

"""

E_MIX_NEW_INTO_OLD = """

Cannot mix new setting names with old setting names, please
rename the following settings to use the old format:

{renames}

Or change all of the settings to use the new format :)

"""


def _old_key_to_new(key: str) -> str:
    return _TO_NEW_KEY.get(key, key)


def _new_key_to_old(key: str) -> str:
    return _TO_OLD_KEY.get(key, key)


class PendingConfiguration(UserDict[str, Any], AttributeDictMixin):
    """Keeps what is assigned in `conf`; anything else calls `callback` first for the real settings.

    `in` and `setdefault` look at the assignments only, so they stay lazy.
    """

    def __init__(self, conf: dict[str, Any], callback: Callable[[], Any]) -> None:
        object.__setattr__(self, "_data", conf)
        object.__setattr__(self, "callback", callback)

    @cached_property
    def data(self) -> Any:  # type: ignore[override]
        return self.callback()

    def __setitem__(self, key: str, value: Any) -> None:
        self._data[key] = value

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return repr(self.data)

    def clear(self) -> None:
        self._data.clear()

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._data.update(*args, **kwargs)

    def setdefault(self, key: str, default: Any = None) -> Any:
        return self._data.setdefault(key, default)


class Settings(ConfigurationView):
    """The settings of an app."""

    def __init__(
        self,
        changes: Any,
        defaults: Sequence[Any] | None = None,
        keys: Sequence[KeyConversion] | None = None,
        prefix: str | None = None,
        *,
        deprecated_settings: Collection[str] | None = None,
    ) -> None:
        super().__init__(changes, defaults, keys, prefix)
        self.__dict__["deprecated_settings"] = deprecated_settings

    def __setitem__(self, key: str, value: Any) -> None:
        warn_of_typos((key,), self.__dict__["prefix"], stacklevel=4)
        super().__setitem__(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        given = dict(*args, **kwargs)
        warn_of_typos(given, self.__dict__["prefix"], stacklevel=3)
        super().update(given)

    def copy(self) -> "Settings":
        self.finalize()
        copied = super().copy()
        copied.__dict__["deprecated_settings"] = self.__dict__["deprecated_settings"]
        assert isinstance(copied, Settings)
        return copied

    # -- settings with a say in the environment, or more than one source ----------------------------------

    @property
    def broker_url(self) -> Any:
        return os.environ.get("CELERY_BROKER_URL") or self.first("broker_url", "broker_host")

    @property
    def broker_read_url(self) -> Any:
        return os.environ.get("CELERY_BROKER_READ_URL") or self.get("broker_read_url") or self.broker_url

    @property
    def broker_write_url(self) -> Any:
        return os.environ.get("CELERY_BROKER_WRITE_URL") or self.get("broker_write_url") or self.broker_url

    @property
    def result_backend(self) -> Any:
        return os.environ.get("CELERY_RESULT_BACKEND") or self.first("result_backend", "CELERY_RESULT_BACKEND")

    @property
    def task_default_exchange(self) -> Any:
        return self.first("task_default_exchange", "task_default_queue")

    @property
    def task_default_routing_key(self) -> Any:
        return self.first("task_default_routing_key", "task_default_queue")

    @property
    def timezone(self) -> Any:
        return self.first("timezone", "TIME_ZONE")  # the latter is Django's

    # -- looking around -----------------------------------------------------------------------------------

    def finalize(self) -> "Settings":
        """Read the configuration, if that has not happened yet."""
        self.get("__bogus__")
        return self

    def without_defaults(self) -> "Settings":
        """Return what was configured, without pgtasks' defaults."""
        return Settings({}, self.maps[:-1])

    def value_set_for(self, key: str) -> bool:
        """Say whether the setting was configured, under any of its names."""
        self.finalize()
        return key in Settings({}, self.maps[:-1], self.__dict__["_keys"], self.__dict__["prefix"])

    def find_option(self, name: str, namespace: str = "") -> Any:
        """Find a setting by name: `(namespace, key, Option)`; see `pgtasks.app.defaults.find`."""
        return find(name, namespace)

    def find_value_for_key(self, name: str, namespace: str = "celery") -> Any:
        """Return the value of the setting that `find_option` finds."""
        return self.get_by_parts(*self.find_option(name, namespace)[:-1])

    def get_by_parts(self, *parts: str | None) -> Any:
        """Return the value of a setting named in parts, as in `("worker", "pool")`."""
        return self["_".join(part for part in parts if part)]

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Return the settings as a dict, secrets masked."""
        self.finalize()
        shown = self if with_defaults else self.without_defaults()
        hidden = dir(dict)
        table = {key: value for key, value in shown.items() if not key.startswith("_") and key not in hidden}
        return filter_hidden_settings(table) if censored else table

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """Return the settings as text, one per line."""
        table = self.table(with_defaults, censored)
        return "\n".join(f"{key}: {pretty(value, width=50)}" for key, value in table.items())

    def maybe_warn_deprecated_settings(self) -> bool:
        """Warn of old-style names, and say whether there were any."""
        found = self.__dict__["deprecated_settings"] or ()
        for name in found:
            warnings.warn(
                f"The {name!r} setting has an old-style name. Use the {_TO_NEW_KEY[name]} instead",
                CDeprecationWarning,
                stacklevel=2,
            )
        return bool(found)


class _Setting:
    """A setting as an attribute. Python makes an AttributeError before it asks `__getattr__`, which takes longer than
    the look-up itself, and every call of a task looks up half a dozen settings.
    """

    def __init__(self, key: str) -> None:
        self._key = key

    def __get__(self, settings: Any, owner: type) -> Any:
        if settings is None:
            return self
        try:
            return settings[self._key]
        except KeyError:
            return settings.__getattr__(self._key)  # which says what is missing


for _key in SETTING_KEYS:
    if _key not in vars(Settings):
        setattr(Settings, _key, _Setting(_key))


def filter_hidden_settings(conf: Mapping[Any, Any]) -> dict[Any, Any]:
    """Mask secrets and the passwords in URLs, in nested dicts as well."""
    return {key: _censor(key, value) for key, value in conf.items()}


def _censor(key: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return filter_hidden_settings(value)
    if isinstance(key, str) and HIDDEN_SETTINGS.search(key):
        return MASK
    if isinstance(value, str) and value.startswith("azureblockblob:"):
        return f"azureblockblob://{MASK}"  # such a URL is made of keys
    if isinstance(value, str) and ("://" in value or "password" in value):
        return ";".join(_mask_server(url) for url in value.split(";"))
    if isinstance(value, (list, tuple)) and isinstance(key, str) and key.lower().endswith("_url"):
        return type(value)(_censor(key, url) for url in value)
    return value


def _mask_server(url: str) -> str:
    """Mask the password of a URL, or of a further server of the same URL, which has no scheme."""
    masked = mask_url(url, MASK)
    return masked if "://" in masked else mask_url(f"://{masked}", MASK).removeprefix("://")


# -- reading a configuration ------------------------------------------------------------------------------


class _Style(NamedTuple):
    """How settings are named: in the new style or in the old one."""

    defaults: Mapping[str, Any]
    to_this: Mapping[str, str]
    mix_error: str


_NEW = _Style(DEFAULTS, _TO_NEW_KEY, E_MIX_OLD_INTO_NEW)
_OLD = _Style(_OLD_DEFAULTS, _TO_OLD_KEY, E_MIX_NEW_INTO_OLD)


def detect_settings(
    conf: Any,
    preconf: dict[str, Any] | None = None,
    ignore_keys: Collection[str] = (),
    prefix: str | None = None,
    all_keys: Collection[str] = SETTING_KEYS,
    old_keys: Collection[str] = _OLD_SETTING_KEYS,
) -> Settings:
    """Make an app's settings from its configuration and what was set before it was read.

    `ignore_keys` do not count in telling the style. Raises ImproperlyConfigured for a mixture of styles, and
    for settings that pgtasks refuses.
    """
    preconf = preconf or {}
    source, conf = (preconf, {}) if conf is None else (conf, conf)
    have = set(source.keys())
    counted = have - set(ignore_keys)
    new, old = counted.intersection(all_keys), counted.intersection(old_keys)
    style = _OLD if len(old) > len(new) and not prefix else _NEW  # a prefix implies the new style
    if not prefix:
        _refuse_mixture(style, old if style is _NEW else new, counted)
    settings = Settings(
        {style.to_this.get(key, key): value for key, value in preconf.items()},
        [conf, deepcopy(style.defaults)],
        (_old_key_to_new, _new_key_to_old),
        prefix,
        deprecated_settings=old,
    )
    warn_of_typos(have, prefix, source=source)
    _refuse_unsafe(settings)
    _warn_of_deprecated(settings)
    return settings


def _refuse_mixture(style: _Style, strangers: set[str], have: set[str]) -> None:
    # A setting given under both its names, to serve two releases of Celery, is fine.
    strangers = {key for key in strangers if style.to_this[key] not in have}
    if strangers:
        renames = "\n".join(f"{key:<36} -> {style.to_this[key]}" for key in sorted(strangers))
        raise ImproperlyConfigured(style.mix_error.format(renames=renames))


def _refuse_unsafe(settings: Settings) -> None:
    for key, option in OPTIONS.items():
        if option.effect is Effect.REFUSED and settings.get(key):
            raise ImproperlyConfigured(f"pgtasks does not support {key}. {option.doc} Remove the setting.")


def _warn_of_deprecated(settings: Settings) -> None:
    for key, option in OPTIONS.items():
        if option.deprecated and settings.value_set_for(key):
            message = f"The {key!r} setting is deprecated. {option.deprecated}"
            warnings.warn(message, CDeprecationWarning, stacklevel=3)


def _is_setting(source: Any, key: str) -> bool:
    """Leave out what a configuration module holds besides settings: its imports and functions."""
    value = source[key] if isinstance(source, DictAttribute) else None
    return not isinstance(value, ModuleType) and not callable(value)


def warn_of_typos(keys: Iterable[str], prefix: str | None = None, stacklevel: int = 4, source: Any = None) -> None:
    """Warn of every key that is no setting but nearly is one; a name of the project's own is left alone.

    Of `source`, where the keys are from, only what is warned of is looked at: Django's settings refuse to show some.
    """
    for key in keys:
        known = _is_known(key, prefix)
        meant = None if known else _nearest(key, prefix)
        if meant and _is_setting(source, key):
            message = f"Unknown setting {key!r}, which has no effect. Did you mean {meant!r}?"
            warnings.warn(message, UnknownSettingWarning, stacklevel=stacklevel)


def _is_known(key: str, prefix: str | None) -> bool:
    if not isinstance(key, str) or key.startswith("_") or key in SETTING_KEYS or key in _OLD_SETTING_KEYS:
        return True
    return bool(prefix) and key.lower().removeprefix(_dashed(prefix).lower()) in SETTING_KEYS


def _nearest(key: str, prefix: str | None) -> str | None:
    """Return the setting that `key` was meant to be: with a prefix, only keys that have it are looked at."""
    if prefix:
        start = _dashed(prefix)
        if not key.startswith(start):
            return None
        close = difflib.get_close_matches(key[len(start) :].lower(), SETTING_KEYS, 1, 0.8)
        return start + (close[0].upper() if start.isupper() else close[0]) if close else None
    names = _OLD_SETTING_KEYS if key.isupper() else SETTING_KEYS
    close = difflib.get_close_matches(key, names, 1, 0.88)
    return close[0] if close else None


def _dashed(prefix: str | None) -> str:
    return (prefix or "").rstrip("_") + "_"
