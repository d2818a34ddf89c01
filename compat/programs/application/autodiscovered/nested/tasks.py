from celery import shared_task


@shared_task
def two():
    return "two"
