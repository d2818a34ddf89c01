"""Bringing a project of Celery's over: its settings' names, and its imports."""
