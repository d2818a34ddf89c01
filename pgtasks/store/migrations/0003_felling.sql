-- Whose failure felled a waiting task, so that of several header tasks that fail one calls the errbacks of the body.
--
-- Why: a task that fails calls the errbacks of what it fells before that is stored; two that fail at once both would.
-- Locks: ACCESS EXCLUSIVE on waiting for a moment, to add a column without a default. The previous release works on.
-- works with: 0001

ALTER TABLE pgtasks.waiting ADD COLUMN felled_by uuid;
