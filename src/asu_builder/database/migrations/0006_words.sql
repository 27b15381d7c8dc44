-- The columns say what the field says: callers, the fair queue, time to live, an audit log.

ALTER TABLE build_requests RENAME COLUMN first_asked_at TO first_requested_at;

ALTER TABLE build_jobs RENAME COLUMN asker TO caller;
ALTER TABLE build_jobs RENAME COLUMN sunk TO deprioritized;
ALTER TABLE build_jobs RENAME COLUMN turn TO fair_start;
ALTER TABLE build_jobs RENAME COLUMN asked_at TO last_accessed_at;
ALTER TABLE build_jobs RENAME COLUMN keep_for TO ttl;
ALTER TABLE build_jobs RENAME COLUMN keep_until TO max_expires_at;

-- Per priority, the start in the fair queue that the last claimed job had.
ALTER TABLE queue_turns RENAME TO fair_queue;
ALTER TABLE fair_queue RENAME COLUMN turn TO reached;

ALTER TABLE worker_pause RENAME COLUMN who TO operator;

ALTER TABLE operator_acts RENAME TO audit_log;
ALTER TABLE audit_log RENAME COLUMN who TO operator;
ALTER TABLE audit_log RENAME COLUMN act TO action;

-- SQLite has no way to rename an index.
DROP INDEX build_jobs_asker;
CREATE INDEX build_jobs_caller ON build_jobs (caller, priority, fair_start) WHERE state IN ('pending', 'building');
