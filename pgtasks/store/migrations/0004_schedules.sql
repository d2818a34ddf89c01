-- What schedulers remember of periodic tasks.
--
-- Why: any number of schedulers may run. Each turn of a periodic task is taken by whoever moves its row on from what it
-- saw, in the transaction that enqueues the task; the others see that it has moved.
-- Locks: creates only. The previous release works on without noticing.
-- works with: 0001

-- One row per periodic task of an app. What to call and when is in the code of the app; task and schedule say it for
-- people. app is the name of the app, so that two projects may share a database.
-- last_run_at: the moment from which the next turn is computed. next_run_at: what that gave, for people and monitors.
CREATE TABLE pgtasks.schedule (
  app text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  last_run_at timestamptz NOT NULL,
  next_run_at timestamptz,
  seen_at timestamptz NOT NULL DEFAULT pgtasks.clock(),
  last_task uuid,
  runs bigint NOT NULL DEFAULT 0,
  skips bigint NOT NULL DEFAULT 0,
  is_paused boolean NOT NULL DEFAULT false,
  task text NOT NULL,
  schedule text NOT NULL,
  CONSTRAINT schedule_pkey PRIMARY KEY (app, name)
) WITH (fillfactor = 70);

-- The periodic tasks, with what came of the last turn of each.
CREATE VIEW pgtasks.schedules AS
SELECT s.app, s.name, s.task, s.schedule, s.is_paused, s.last_run_at, s.next_run_at, s.runs, s.skips,
       s.last_task, t.state AS last_state, s.seen_at
FROM pgtasks.schedule s LEFT JOIN pgtasks.tasks t ON t.id = s.last_task;
