-- The whole life of a job: cancellation, turns between askers, interest, attempts, retention, and the
-- operator's hand. The table is made anew, because its checks change.

CREATE TABLE build_jobs_anew (
    -- Never used again, so that a lease or a container's label of a job that is gone fits no other.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    request_hash TEXT NOT NULL REFERENCES build_requests (request_hash),
    client TEXT NOT NULL DEFAULT '',
    -- Who asked first, and the digest of the secret by which that one may cancel.
    asker TEXT NOT NULL DEFAULT '',
    cancel_digest TEXT NOT NULL DEFAULT '',
    joined BOOLEAN NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'building', 'completed', 'failed', 'cancelled')),
    stage TEXT,
    -- The order of those that wait: sunk, priority, turn, id.
    sunk BOOLEAN NOT NULL DEFAULT 0,
    priority INTEGER NOT NULL DEFAULT 0,
    turn BIGINT NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL DEFAULT 0,
    history TEXT NOT NULL DEFAULT '[]',
    worker TEXT,
    lease_token BIGINT NOT NULL DEFAULT 0,
    lease_until BIGINT,
    not_before BIGINT NOT NULL DEFAULT 0,
    enqueued_at BIGINT NOT NULL,
    -- When somebody last polled it or used its result.
    asked_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    expires_at BIGINT,
    -- How long from a use a result is kept, and until when at most.
    keep_for BIGINT NOT NULL DEFAULT 0,
    keep_until BIGINT,
    stored_bytes BIGINT NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    CHECK ((state = 'building') = (worker IS NOT NULL AND lease_until IS NOT NULL)),
    CHECK ((state = 'building') = (stage IS NOT NULL)),
    CHECK ((state IN ('completed', 'failed', 'cancelled'))
        = (finished_at IS NOT NULL AND expires_at IS NOT NULL)),
    CHECK ((state = 'failed') = (reason <> ''))
);

INSERT INTO build_jobs_anew
       (id, request_hash, client, state, stage, priority, turn, attempts, retries, worker, lease_token,
        lease_until, not_before, enqueued_at, asked_at, started_at, finished_at, expires_at, stored_bytes, reason)
SELECT job.id, job.request_hash, job.client, job.state, job.stage, job.priority, 0, job.attempts, job.retries,
       job.worker, job.lease_token, job.lease_until, job.not_before, job.enqueued_at,
       coalesce(job.finished_at, CAST(strftime('%s', 'now') AS INTEGER) * 1000000), job.started_at,
       job.finished_at, job.expires_at,
       coalesce((SELECT sum(json_extract(image.value, '$.size'))
                   FROM json_each(result.document, '$.images') AS image), 0),
       CASE job.state WHEN 'failed' THEN coalesce(json_extract(result.document, '$.reason'), 'internal') ELSE '' END
  FROM build_jobs AS job LEFT JOIN build_results AS result ON result.job_id = job.id;

DROP TABLE build_jobs;
ALTER TABLE build_jobs_anew RENAME TO build_jobs;

-- Two live jobs for one hash are impossible.
CREATE UNIQUE INDEX build_jobs_live ON build_jobs (request_hash) WHERE state IN ('pending', 'building');
CREATE INDEX build_jobs_hash ON build_jobs (request_hash, id);
CREATE INDEX build_jobs_order ON build_jobs (sunk, priority DESC, turn, id) WHERE state = 'pending';
CREATE INDEX build_jobs_asker ON build_jobs (asker, priority, turn) WHERE state IN ('pending', 'building');
CREATE INDEX build_jobs_lease ON build_jobs (lease_until) WHERE state = 'building';
CREATE INDEX build_jobs_expiry ON build_jobs (expires_at) WHERE state IN ('completed', 'failed', 'cancelled');
CREATE INDEX build_jobs_finished ON build_jobs (finished_at) WHERE state = 'completed';
CREATE INDEX build_jobs_used ON build_jobs (asked_at) WHERE state = 'completed';

-- The turn that each priority has reached.
CREATE TABLE queue_turns (
    priority INTEGER NOT NULL PRIMARY KEY,
    turn BIGINT NOT NULL
);

-- When a process last looked at the queue: time that nobody saw does not count.
CREATE TABLE queue_clock (
    seen_at BIGINT NOT NULL
);

-- One row while the workers are paused.
CREATE TABLE worker_pause (
    since BIGINT NOT NULL,
    who TEXT NOT NULL
);

-- What operators did.
CREATE TABLE operator_acts (
    id INTEGER PRIMARY KEY,
    at BIGINT NOT NULL,
    who TEXT NOT NULL,
    act TEXT NOT NULL,
    subject TEXT NOT NULL DEFAULT ''
);

-- Of what has expired only digests of its script and keys are kept.
ALTER TABLE build_requests ADD COLUMN scrubbed BOOLEAN NOT NULL DEFAULT 0;
