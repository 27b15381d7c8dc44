-- What the preflight knows: packages that an ImageBuilder brings along, and where a verdict was wrong.

-- One row for a release (its path upstream) and target: the ImageBuilder that was used last.
CREATE TABLE imagebuilders (
    release_path TEXT NOT NULL,
    target TEXT NOT NULL,
    identity TEXT NOT NULL,
    revision TEXT NOT NULL,
    manager TEXT NOT NULL,
    package_index BLOB NOT NULL,  -- zlib
    repositories TEXT NOT NULL,   -- JSON, a list of addresses
    folders BLOB NOT NULL,        -- zlib, MessagePack, folder to its index
    pins TEXT NOT NULL,           -- JSON, name to version
    learnt_at BIGINT NOT NULL,
    PRIMARY KEY (release_path, target)
);

-- One row for each release and target of which a build has shown whether "impossible" was right.
CREATE TABLE preflight_targets (
    release_path TEXT NOT NULL,
    target TEXT NOT NULL,
    mode TEXT NOT NULL CHECK (mode IN ('enforce', 'advise')),
    since BIGINT NOT NULL,
    sampled BIGINT NOT NULL DEFAULT 0,
    disagreements BIGINT NOT NULL DEFAULT 0,
    last_disagreement TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (release_path, target)
);

-- Requests that packages were left out of, whose results end when the package indexes change.
CREATE INDEX build_requests_dropped ON build_requests (request_hash)
 WHERE instr(request, '"dropped":{"') > 0;
