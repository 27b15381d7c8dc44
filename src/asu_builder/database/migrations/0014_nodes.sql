-- The processes that share this database: a row for each, renewed while it lives. `machine` and `life` tell two of
-- one name apart; `facts` is JSON.

CREATE TABLE nodes (
    name TEXT NOT NULL PRIMARY KEY,
    machine TEXT NOT NULL,
    life TEXT NOT NULL,
    facts TEXT NOT NULL,
    drained BOOLEAN NOT NULL DEFAULT FALSE,
    seen_at BIGINT NOT NULL
);
