"""Programs written against plain Celery, run unmodified on real Celery and on pgtasks, and compared."""

#: Starts a line that a program's harness has for the runner, on standard error.
REMARK = "compat: "
