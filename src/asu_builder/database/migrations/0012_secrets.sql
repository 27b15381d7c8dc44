-- What is secret in a request, encrypted under a data key of its own, which the secrets key wraps. A request that is
-- sealed has digests in its document; deleting its row here forgets its script and keys.

ALTER TABLE build_requests ADD COLUMN sealed BOOLEAN NOT NULL DEFAULT FALSE;

CREATE TABLE build_secrets (
    request_hash TEXT NOT NULL PRIMARY KEY REFERENCES build_requests (request_hash) ON DELETE CASCADE,
    secrets_key TEXT NOT NULL,
    wrapped BLOB NOT NULL,
    sealed BLOB NOT NULL
);
