"""A camera takes snapshots of the cluster's state, and forgets the tasks it has seen"""

from celery import Celery
from celery.events import Event
from celery.events.snapshot import Polaroid

app = Celery("camera")


class DumpCam(Polaroid):
    clear_after = True
    shots = []

    def on_shutter(self, state):
        if not state.event_count:
            return
        names = sorted((task.name, task.state) for _, task in state.tasks_by_time())
        self.shots.append((sorted(state.workers), names))


def main():
    state = app.events.State()
    clock = iter(range(1, 100))

    def happens(type, **fields):
        state.event(Event(type, hostname="w@h", timestamp=1000.0, local_received=1000.0, clock=next(clock), pid=1, **fields))

    camera = DumpCam(state, freq=60)
    camera.capture()
    print(DumpCam.shots)
    happens("worker-online", freq=2.0, sw_ident="py", sw_ver="5", sw_sys="Linux", active=0, processed=0)
    happens("task-received", uuid="one", name="camera.add", args="(1, 1)", kwargs="{}", retries=0, eta=None, expires=None)
    happens("task-started", uuid="one")
    happens("task-received", uuid="two", name="camera.fail", args="()", kwargs="{}", retries=0, eta=None, expires=None)
    happens("task-failed", uuid="two", exception="ValueError()", traceback="...")
    print(state.event_count, state.task_count)
    camera.capture()
    print(DumpCam.shots)
    print(state.event_count, len(state.tasks), sorted(state.workers))
    happens("task-succeeded", uuid="one", result="2", runtime=0.1)
    camera.capture()
    print(DumpCam.shots[-1])
    print([task.uuid for _, task in state.tasks_by_type("camera.add")])
