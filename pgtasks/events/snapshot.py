"""Cameras: take a picture of the cluster's state from time to time.

class Camera(Polaroid):
    def on_shutter(self, state): ...

pgtasks -A proj events -c proj.cameras.Camera -F 2.0
"""

from __future__ import annotations

import threading
import time
from typing import Any, Self

from pgtasks._state import get_current_app
from pgtasks.events.receiver import forgiving
from pgtasks.utils.dispatch import Signal
from pgtasks.utils.imports import import_from_cwd, symbol_by_name
from pgtasks.utils.log import get_logger
from pgtasks.utils.time import rate

__all__ = ("Polaroid", "evcam")

logger = get_logger("celery.evcam")


class Polaroid:
    """Takes a picture every `freq` seconds, at most at the rate `maxrate` ("10/m"), in a thread of its own."""

    shutter_signal = Signal(name="shutter_signal", providing_args={"state"})
    cleanup_signal = Signal(name="cleanup_signal", providing_args=set())
    #: Forget the state after each picture.
    clear_after = False

    def __init__(
        self,
        state: Any,
        freq: float = 1.0,
        maxrate: str | None = None,
        cleanup_freq: float = 3600.0,
        timer: Any = None,
        app: Any = None,
    ) -> None:
        self.app = app or get_current_app()
        self.state = state
        self.freq = float(freq)
        self.cleanup_freq = cleanup_freq
        self.maxrate = maxrate
        self.logger = logger
        per_second = rate(maxrate)
        self._least_pause_s = 1 / per_second if per_second else 0.0
        self._shot_at = -1e9
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def install(self) -> None:
        """Begin to take pictures."""
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        cleanup_at = time.monotonic() + self.cleanup_freq
        while not self._ending.wait(self.freq):
            try:
                self.capture()
                if time.monotonic() >= cleanup_at:
                    cleanup_at += self.cleanup_freq
                    self.cleanup()
            except Exception:
                logger.exception("Timer error: the picture was not taken")

    def on_shutter(self, state: Any) -> None:
        """What a picture is; a hook for subclasses."""

    def on_cleanup(self) -> None:
        """Called from time to time, to throw old pictures away; a hook for subclasses."""

    def cleanup(self) -> None:
        logger.debug("Cleanup: Running...")
        self.cleanup_signal.send(sender=self.state)
        self.on_cleanup()

    def shutter(self) -> None:
        """Take a picture, unless the last one is too recent."""
        if time.monotonic() - self._shot_at < self._least_pause_s:
            return
        self._shot_at = time.monotonic()
        logger.debug("Shutter: %s", self.state)
        self.shutter_signal.send(sender=self.state)
        self.on_shutter(self.state)

    def capture(self) -> None:
        self.state.freeze_while(self.shutter, clear_after=self.clear_after)

    def cancel(self) -> None:
        """Take a last picture, and no more."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self.capture()

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cancel()


def evcam(
    camera: Any,
    freq: float = 1.0,
    maxrate: str | None = None,
    loglevel: int | str = "WARNING",
    logfile: str | None = None,
    app: Any = None,
    **kwargs: Any,
) -> None:
    """Run a camera until interrupted; `camera` is a class or the path of one."""
    app = app or get_current_app()
    app.log.setup_logging_subsystem(loglevel, logfile)
    state = app.events.State()
    with symbol_by_name(camera, imp=import_from_cwd)(state, app=app, freq=freq, maxrate=maxrate):
        try:
            app.events.Receiver(handlers={"*": forgiving(state.event)}).capture()
        except KeyboardInterrupt:
            raise SystemExit from None  # a recorder is stopped so: nothing to show a traceback for
