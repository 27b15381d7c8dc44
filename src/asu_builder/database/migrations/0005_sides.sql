-- Whose side a failure is on: `user`, `infrastructure` or `internal`. One reason may be on either side. What
-- was counted before does not say it, and has ''.

ALTER TABLE build_stats ADD COLUMN side TEXT NOT NULL DEFAULT '';

CREATE TABLE daily_events_by_side (
    kind TEXT NOT NULL,
    day INTEGER NOT NULL,
    version TEXT NOT NULL,
    reason TEXT NOT NULL,
    side TEXT NOT NULL,
    diff_packages BOOLEAN NOT NULL,
    events BIGINT NOT NULL,
    PRIMARY KEY (kind, day, version, reason, side, diff_packages)
) WITHOUT ROWID;

INSERT INTO daily_events_by_side (kind, day, version, reason, side, diff_packages, events)
SELECT kind, day, version, reason, '', diff_packages, events FROM daily_events;

DROP TABLE daily_events;
ALTER TABLE daily_events_by_side RENAME TO daily_events;
