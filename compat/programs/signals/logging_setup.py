"""A setup_logging handler takes over; after_setup_logger and after_setup_task_logger add to Celery's own setup."""

import logging
import os

from celery import Celery
from celery.signals import after_setup_logger, after_setup_task_logger, setup_logging
from celery.utils.log import get_task_logger

from compat.harness import said, say, scratch, show, worker

app = Celery("logging_setup")
logger = get_task_logger(__name__)


class ToNotes(logging.Handler):
    def emit(self, record):
        if "task-logged" in record.getMessage():
            say("handler", record.levelname, record.name, record.getMessage())


if os.path.exists(scratch("take over")):

    @setup_logging.connect
    def take_over(loglevel, logfile, format, colorize, **kwargs):
        say("setup_logging", logging.getLevelName(loglevel), logfile, colorize)
        logging.basicConfig(level=logging.WARNING, format="MINE %(levelname)s %(message)s")


@after_setup_logger.connect
def after(logger, loglevel, logfile, format, colorize, **kwargs):
    say("after_setup_logger", logger.name, logging.getLevelName(loglevel), logfile)
    logger.addHandler(ToNotes())


@after_setup_task_logger.connect
def after_task(logger, **kwargs):
    say("after_setup_task_logger", logger.name)


@app.task
def talk():
    logger.info("task-logged info")
    logger.warning("task-logged warning")


def main():
    with worker():
        talk.delay().get(timeout=10)
    show(said())
    open(scratch("take over"), "w").close()
    with worker() as running:
        talk.delay().get(timeout=10)
    show(line for line in said() if line.startswith("setup_logging"))
    show(line for line in running.log() if "MINE" in line and "task-logged" in line)
