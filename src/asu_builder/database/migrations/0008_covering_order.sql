-- The index of what waits holds the state too. Its condition names that column, and SQLite counts a range of an
-- index twice as fast where every column that is named is in it.

DROP INDEX build_jobs_order;
CREATE INDEX build_jobs_order ON build_jobs (deprioritized, priority DESC, fair_start, id, state)
 WHERE state = 'pending';
