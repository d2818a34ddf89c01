"""Durable workflows: tasks that remember what they did, and go on there.

`from pgtasks import wf` is what a workflow's code uses; `@app.workflow` makes one. Workers know nothing of this package: they
run a workflow as they run any task.
"""

import pgtasks.workflow.api as wf

__all__ = ("wf",)
