"""Tells kombu of the transport, as soon as a program that has pgtasks installed imports kombu's serializers.

kombu knows its transports by a table, and takes no class from a URL. Of entry points it reads one group, that
of serializers, when it is imported, which is before any program of Celery opens a connection. So the entry
point says a serializer of which there is nothing but the name, and the table is completed on the way.
"""

from __future__ import annotations

from kombu.transport import TRANSPORT_ALIASES

__all__ = ("SERIALIZER",)

TRANSPORT_ALIASES.setdefault("pgtasks", "pgtasks.kombu.transport:Transport")

#: Encoder, decoder, content type: what kombu asks of an entry point for serializers.
SERIALIZER = (None, None, "application/x-pgtasks")
