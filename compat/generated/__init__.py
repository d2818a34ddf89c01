"""Canvases made by a generator, run on Celery and on pgtasks by `programs/canvas/generated.py`, and compared."""
