-- The queue, its results, and what was asked. Times are integer microseconds since 1970, UTC.

CREATE TABLE installation (
    id TEXT NOT NULL PRIMARY KEY
);

-- What was asked, by whom; kept long, for audit.
CREATE TABLE build_requests (
    request_hash TEXT NOT NULL PRIMARY KEY CHECK (length(request_hash) = 64),
    request TEXT NOT NULL,
    first_asked_at BIGINT NOT NULL
);
CREATE INDEX build_requests_asked ON build_requests (first_asked_at);

CREATE TABLE build_jobs (
    id INTEGER PRIMARY KEY,
    request_hash TEXT NOT NULL REFERENCES build_requests (request_hash),
    client TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'building', 'completed', 'failed')),
    stage TEXT,
    priority INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    lease_token BIGINT NOT NULL DEFAULT 0,
    lease_until BIGINT,
    not_before BIGINT NOT NULL DEFAULT 0,
    enqueued_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    expires_at BIGINT,
    CHECK ((state = 'building') = (worker IS NOT NULL AND lease_until IS NOT NULL)),
    CHECK ((state = 'building') = (stage IS NOT NULL)),
    CHECK ((state IN ('completed', 'failed')) = (finished_at IS NOT NULL AND expires_at IS NOT NULL))
);

-- Two live jobs for one hash are impossible.
CREATE UNIQUE INDEX build_jobs_live ON build_jobs (request_hash) WHERE state IN ('pending', 'building');
CREATE INDEX build_jobs_hash ON build_jobs (request_hash, id);
CREATE INDEX build_jobs_turn ON build_jobs (priority DESC, id) WHERE state = 'pending';
CREATE INDEX build_jobs_lease ON build_jobs (lease_until) WHERE state = 'building';
CREATE INDEX build_jobs_expiry ON build_jobs (expires_at) WHERE state IN ('completed', 'failed');

CREATE TABLE build_results (
    job_id INTEGER NOT NULL PRIMARY KEY REFERENCES build_jobs (id) ON DELETE CASCADE,
    completed BOOLEAN NOT NULL,
    document TEXT NOT NULL
);

-- Events for the statistics; bounded labels, no hash.
CREATE TABLE build_stats (
    id INTEGER PRIMARY KEY,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    version TEXT NOT NULL,
    target TEXT NOT NULL,
    profile TEXT NOT NULL,
    diff_packages BOOLEAN NOT NULL,
    client TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX build_stats_kind ON build_stats (kind, at);

-- Upstream's documents as last seen.
CREATE TABLE upstream_documents (
    path TEXT NOT NULL PRIMARY KEY,
    etag TEXT NOT NULL DEFAULT '',
    fetched_at BIGINT NOT NULL,
    body BLOB
);
