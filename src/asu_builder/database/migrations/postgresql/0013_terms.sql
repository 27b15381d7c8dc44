-- oldest program: schema 13
-- Under what a request got its hash: only a worker that holds to the same may build it. Requests and jobs of before
-- do not say (edition 0), and any worker takes them. The request keeps it for a job that is queued again.

ALTER TABLE build_jobs ADD COLUMN edition INTEGER NOT NULL DEFAULT 0;
ALTER TABLE build_jobs ADD COLUMN errata TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE build_jobs ADD COLUMN rules TEXT COLLATE "C" NOT NULL DEFAULT '';

ALTER TABLE build_requests ADD COLUMN edition INTEGER NOT NULL DEFAULT 0;
ALTER TABLE build_requests ADD COLUMN errata TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE build_requests ADD COLUMN rules TEXT COLLATE "C" NOT NULL DEFAULT '';
