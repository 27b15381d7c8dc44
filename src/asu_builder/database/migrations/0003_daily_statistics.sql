-- Counts of whole days (UTC), so that a chart reads some thousand rows and not each event. `day` is the
-- number of days since 1970. Labels are bounded, and nothing here names a request or who asked.

CREATE TABLE daily_events (
    kind TEXT NOT NULL,
    day INTEGER NOT NULL,
    version TEXT NOT NULL,
    reason TEXT NOT NULL,
    diff_packages BOOLEAN NOT NULL,
    events BIGINT NOT NULL,
    PRIMARY KEY (kind, day, version, reason, diff_packages)
) WITHOUT ROWID;

INSERT INTO daily_events (kind, day, version, reason, diff_packages, events)
SELECT kind, at / 86400000000, version, reason, diff_packages, count(*)
  FROM build_stats GROUP BY 1, 2, 3, 4, 5;

-- How long stages took, in microseconds: `up_to` is the upper end of a class of durations.
CREATE TABLE daily_durations (
    day INTEGER NOT NULL,
    stage TEXT NOT NULL,
    up_to BIGINT NOT NULL,
    builds BIGINT NOT NULL,
    total BIGINT NOT NULL,
    longest BIGINT NOT NULL,
    PRIMARY KEY (day, stage, up_to)
) WITHOUT ROWID;

-- In how many new builds a package was wanted; under the version '' all versions together. Of a day that
-- is over only the names most wanted are kept.
CREATE TABLE daily_packages (
    version TEXT NOT NULL,
    day INTEGER NOT NULL,
    name TEXT NOT NULL,
    builds BIGINT NOT NULL,
    PRIMARY KEY (version, day, name)
) WITHOUT ROWID;

-- What was asked before is counted once, as far back as can be counted in seconds.
INSERT INTO daily_packages (version, day, name, builds)
SELECT version, day, name, builds
  FROM (SELECT version, day, name, builds,
               row_number() OVER (PARTITION BY version, day ORDER BY builds DESC, name) AS place
          FROM (SELECT asked.version, asked.day, wanted.value AS name, count(*) AS builds
                  -- The document is read once for each request, and not again for each of its names.
                  FROM (SELECT json_extract(request, '$.version') AS version, first_asked_at / 86400000000 AS day,
                               CASE coalesce(json_extract(request, '$.packages_versions'), '{}')
                               WHEN '{}' THEN json_extract(request, '$.packages')
                               ELSE (SELECT json_group_array(key)
                                       FROM json_each(request, '$.packages_versions')) END AS names
                          FROM build_requests ORDER BY first_asked_at DESC LIMIT 20000) AS asked,
                       json_each(asked.names) AS wanted
                 WHERE wanted.value NOT LIKE '-%'
                 GROUP BY 1, 2, 3))
 WHERE place <= 150;

INSERT INTO daily_packages (version, day, name, builds)
SELECT '', day, name, sum(builds) FROM daily_packages GROUP BY day, name;
