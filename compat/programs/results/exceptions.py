"""The exceptions applications import: what derives from what, how they print, that they pickle."""

import pickle

from celery import exceptions

from compat.harness import outcome

NAMES = (
    "CeleryError ImproperlyConfigured SecurityError TaskPredicate Ignore Reject Retry RetryTaskError TaskError QueueNotFound "
    "IncompleteStream NotRegistered AlreadyRegistered TimeoutError MaxRetriesExceededError TaskRevokedError InvalidTaskError "
    "ChordError BackendError BackendGetMetaError BackendStoreError SoftTimeLimitExceeded TimeLimitExceeded WorkerLostError "
    "Terminated OperationalError CeleryWarning AlwaysEagerIgnored DuplicateNodenameWarning FixupWarning NotConfigured "
    "CDeprecationWarning CPendingDeprecationWarning SecurityWarning WorkerTerminate WorkerShutdown CeleryCommandException"
).split()


def main():
    for name in NAMES:
        cls = getattr(exceptions, name)
        print(name, [base.__name__ for base in cls.__mro__[1:-1]])
    examples = [
        exceptions.Retry("message", KeyError("why"), 3),
        exceptions.Retry(exc=ValueError("why")),
        exceptions.Retry(when=2.5),
        exceptions.Ignore(),
        exceptions.Reject("reason", requeue=True),
        exceptions.NotRegistered("a.task"),
        exceptions.MaxRetriesExceededError("text", task_args=[1], task_kwargs={"a": 2}),
        exceptions.BackendGetMetaError("text", task_id="1"),
        exceptions.BackendStoreError("text", state="SUCCESS", task_id="1"),
        exceptions.SoftTimeLimitExceeded(3),
        exceptions.TimeLimitExceeded(4),
        exceptions.WorkerLostError("lost"),
        exceptions.TaskRevokedError("revoked"),
        exceptions.ChordError("dependency"),
    ]
    for example in examples:
        again = pickle.loads(pickle.dumps(example))
        faithful = (type(again), str(again)) == (type(example), str(example))
        print(type(example).__name__, "|", example, "|", "pickles" if faithful else "does not pickle")
    retry = examples[0]
    print(retry.message, repr(retry.exc), retry.excs, retry.when, retry.humanize(), retry.is_eager, retry.sig)
    print([repr(example) for example in examples if not isinstance(example, exceptions.Retry)])
    print(exceptions.TimeoutError is TimeoutError, outcome(lambda: exceptions.reraise(KeyError, KeyError("again"))))
