-- oldest program: schema 12
-- What is secret in a request, as in the script of SQLite. A program that does not know it would build with digests.

ALTER TABLE build_requests ADD COLUMN sealed BOOLEAN NOT NULL DEFAULT FALSE;

CREATE TABLE build_secrets (
    request_hash TEXT COLLATE "C" NOT NULL PRIMARY KEY
        REFERENCES build_requests (request_hash) ON DELETE CASCADE,
    secrets_key TEXT COLLATE "C" NOT NULL,
    wrapped BYTEA NOT NULL,
    sealed BYTEA NOT NULL
);
