import os

from django.db import connection

from pgtasks import shared_task
from polls.models import Question


@shared_task
def count(question_id):
    return Question.objects.get(pk=question_id).votes


@shared_task
def add(x, y):
    return x + y


@shared_task
def fail(text):
    raise ValueError(text)


@shared_task
def backend_pid():
    """The process that serves this task's connection, and whether the worker's parent left one open."""
    was_open = connection.connection is not None
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return [os.getpid(), cursor.fetchone()[0], was_open]
