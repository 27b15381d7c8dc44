-- oldest program: schema 13
-- The processes that share this database: a row for each, renewed while it lives. `machine` and `life` tell two of
-- one name apart; `facts` is JSON.

CREATE TABLE nodes (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    machine TEXT COLLATE "C" NOT NULL,
    life TEXT COLLATE "C" NOT NULL,
    facts TEXT COLLATE "C" NOT NULL,
    drained BOOLEAN NOT NULL DEFAULT FALSE,
    seen_at BIGINT NOT NULL
);
