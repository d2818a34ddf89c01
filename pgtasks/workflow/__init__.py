"""Durable workflows: tasks whose steps are recorded, so that they resume where they stopped.

`@app.workflow` declares one; its code uses `from pgtasks import wf`. Workers do not import this package: they run a
workflow as they run any task.
"""

import pgtasks.workflow.api as wf

__all__ = ("wf",)
