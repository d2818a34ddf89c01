"""Monitoring events of workers and callers, under Celery's names and with its fields."""

from pgtasks.events.dispatcher import EventDispatcher
from pgtasks.events.event import Event, event_exchange, get_exchange, group_from
from pgtasks.events.receiver import EventReceiver

__all__ = ("Event", "EventDispatcher", "EventReceiver", "event_exchange", "get_exchange", "group_from")
