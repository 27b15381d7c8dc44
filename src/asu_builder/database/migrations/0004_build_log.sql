-- What the commands of a build printed, line by line; it goes with its job.

CREATE TABLE build_log (
    job_id INTEGER NOT NULL REFERENCES build_jobs (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL CHECK (seq > 0),
    at BIGINT NOT NULL,
    stage TEXT NOT NULL,
    text TEXT NOT NULL,
    -- Of the job's text up to here; more than the limit in the line that says that the rest is left out.
    bytes BIGINT NOT NULL,
    PRIMARY KEY (job_id, seq)
) WITHOUT ROWID;
