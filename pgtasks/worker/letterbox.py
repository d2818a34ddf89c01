"""A worker's letters: each is a remote control command, dispatched to the function of the `Panel` that it names.

letter -> Letterbox.empty -> command -> its answer as a reply
"""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from pgtasks.app import pidbox
from pgtasks.exceptions import EncodeError, OperationalError, WorkerShutdown, WorkerTerminate
from pgtasks.execution.site import accepted_content
from pgtasks.message import Claim
from pgtasks.serialization import decode, encode
from pgtasks.store import letters
from pgtasks.store.sql import Query
from pgtasks.utils.log import get_logger
from pgtasks.worker import control as control  # fills the panel
from pgtasks.worker import state
from pgtasks.worker.panel import Panel, plain
from pgtasks.worker.request import Request

__all__ = ("Letterbox",)

logger = get_logger("celery.worker.control")


class Letterbox:
    """Reads a worker's letters and executes them."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        worker.consumer.controller = worker
        self.state = SimpleNamespace(
            app=worker.app, hostname=worker.hostname, consumer=worker.consumer, tset=lambda requests: set(requests)
        )

    def empty(self) -> None:
        """Execute the letters that have come, in order; raises only when the database does not answer."""
        consumer = self._worker.consumer
        found = consumer.database.run(letters.take(consumer.worker))
        if not self._worker.app.conf.worker_enable_remote_control:
            return  # taken all the same: they would lie there for as long as the worker lives
        for letter in found:
            self._worker.app.clock.adjust(letter.clock)
            try:
                answer = self._obey(letter)
            except (WorkerShutdown, WorkerTerminate) as end:
                self._worker.end(end)
                return
            if letter.ticket is not None:
                consumer.database.run(letters.answer(letter.ticket, self._sealed(answer)))
            elif letter.reply_mailbox is not None:
                consumer.database.run(self._celery_reply(letter.reply_mailbox, letter.reply_ticket, answer))

    def _obey(self, letter: letters.Letter) -> Any:
        try:
            accept = accepted_content(self._worker.app.conf)
            arguments = decode(letter.arguments, letter.content_type, letter.content_encoding, accept)
            return Panel.data[letter.command](self.state, **arguments)
        except Exception as error:
            logger.error("Control command error: %r", error, exc_info=True)
            return {"error": repr(error)}

    def _sealed(self, answer: Any) -> letters.Reply:
        app = self._worker.app
        try:
            body = encode(answer, app.conf.task_serializer)
        except EncodeError:
            # It tells of something, such as the arguments of a task, that this serializer cannot carry.
            body = encode(plain(answer), app.conf.task_serializer)
        return letters.Reply(self._worker.hostname, app.clock.forward(), *body)

    def _celery_reply(self, mailbox: str, ticket: str | None, answer: Any) -> Query[None]:
        hostname, clock = self._worker.hostname, self._worker.app.clock.forward()
        try:
            return pidbox.reply(mailbox, ticket, {hostname: answer}, clock)
        except EncodeError:
            return pidbox.reply(mailbox, ticket, {hostname: plain(answer)}, clock)

    def judged(self, claims: list[Claim]) -> list[Claim]:
        """Have claims that carry a revoked stamp end as revoked. Letters on the way are read first."""
        if not any(claim.options and b'"stamps"' in claim.options for claim in claims):
            return claims
        with suppress(OperationalError):  # then they are read when the database is back
            self.empty()
        if not state.revoked_stamps:
            return claims
        return [self._judged(claim) for claim in claims]

    def _judged(self, claim: Claim) -> Claim:
        request = Request(self._worker.crew.site, claim)
        if claim.fate != "live" or not request.matching(state.revoked_stamps):
            return claim
        state.revoked.add(request.id)
        return claim._replace(fate="revoked")
