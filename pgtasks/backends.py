"""The result backend under the names that code for Celery imports: for subclasses, annotations and `isinstance`.

There is one backend, and it is `Backend`. The others say what it is not.
"""

from pgtasks import states as states
from pgtasks._state import get_current_task as get_current_task
from pgtasks.app.backend import Backend

__all__ = (
    "Backend",
    "BaseBackend",
    "BaseDictBackend",
    "BaseKeyValueStoreBackend",
    "DisabledBackend",
    "KeyValueStoreBackend",
)

BaseBackend = Backend
BaseDictBackend = Backend


class BaseKeyValueStoreBackend(Backend):
    """A backend on keys and values, such as Redis; none is of this kind."""


KeyValueStoreBackend = BaseKeyValueStoreBackend


class DisabledBackend(Backend):
    """A backend that keeps nothing; none is of this kind, since a canvas needs the results of its tasks."""
