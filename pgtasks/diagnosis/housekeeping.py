"""What keeps the server from cleaning up behind itself, and what fills its disk."""

from __future__ import annotations

import os

from pgtasks.diagnosis.finding import Finding, Findings, ask, megabytes
from pgtasks.store import doctor
from pgtasks.store.database import OwnConnection

__all__ = ("disk", "horizons", "wal")

LONG_S = 600.0
MANY_TRANSACTIONS = 10_000_000
#: Of WAL that nobody but an absent reader needs.
KEPT_BYTES = 1024**3
#: The share of a disk that is free below which it is nearly full, and is full.
SCARCE, GONE = 0.05, 0.01


def horizons(conn: OwnConnection) -> Findings:
    """Who keeps dead rows from being removed?"""
    advice = {
        "session": "End it with pg_terminate_backend, and give that role an idle_in_transaction_session_timeout.",
        "prepared": "COMMIT PREPARED or ROLLBACK PREPARED it.",
        "slot": "Bring its consumer back, or drop it with pg_drop_replication_slot.",
        "standby": "Look at its queries; its hot_standby_feedback passes their age on.",
    }
    for each in ask(conn, doctor.horizons()):
        if (each.seconds or 0) > LONG_S or (each.transactions or 0) > MANY_TRANSACTIONS or "inactive" in each.who:
            since = f"for {each.seconds:.0f} s" if each.seconds is not None else f"over {each.transactions} transactions"
            yield Finding(
                "risky", f"old {each.kind}", f"{each.who} holds an old state {since}",
                "Dead rows cannot be removed meanwhile: tables grow, and claims become slow.", advice[each.kind],
            )  # fmt: skip


def wal(conn: OwnConnection) -> Findings:
    """Who keeps WAL, which ends with a full disk?"""
    for name, kept in ask(conn, doctor.idle_slots()):
        if kept > KEPT_BYTES:
            yield Finding(
                "risky", "kept WAL", f"the replication slot {name!r} keeps {megabytes(kept)} of WAL, and nobody reads it",
                "It grows until the disk is full, and then the server stops.",
                "Bring its consumer back, or drop it with pg_drop_replication_slot; max_slot_wal_keep_size sets a limit.",
            )  # fmt: skip
    for name, failures in ask(conn, doctor.archiving()):
        yield Finding(
            "risky", "archiving", f"archive_command fails, {failures} times so far, the last time for {name}",
            "What is not archived is kept, until the disk is full and the server stops.",
            "The server's log says why.",
        )  # fmt: skip


def disk(conn: OwnConnection) -> Findings:
    """How much room is left? SQL cannot tell, so only a server on this very machine is asked, through its directory."""
    is_here = conn.info.host.startswith("/") or conn.info.host in ("localhost", "127.0.0.1", "::1")
    if conn.is_pooled or not is_here:
        return
    directory = ask(conn, doctor.data_directory())
    try:
        room = os.statvfs(directory or "")
    except OSError:
        # It is in a container, or not for everybody to see.
        return
    share, free = room.f_bavail / max(room.f_blocks, 1), room.f_bavail * room.f_frsize
    if share < SCARCE:
        yield Finding(
            "broken" if share < GONE else "risky", "disk space",
            f"{megabytes(free)} are free, {share:.1%}, on the disk of {directory}",
            "When it is full nothing can be sent, and no task can end.",
            "Make room. Look at the rows of kept WAL and dead rows here, if any, and at result_expires.",
        )  # fmt: skip
