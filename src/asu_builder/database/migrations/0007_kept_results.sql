-- A hundred thousand results may be kept: nothing is done to each of them at a start, or each minute.

-- How much time passed while no process polled the queue. Of a completed job `last_accessed_at` does not
-- contain it: a gap moves this number and not every row.
ALTER TABLE queue_clock ADD COLUMN unseen BIGINT NOT NULL DEFAULT 0;

-- What the images of all results take: of a hash's completed jobs the newest counts, because the images are
-- its own. The triggers keep the sum exact in the transaction that changes it, whoever writes.
CREATE TABLE stored_images (
    bytes BIGINT NOT NULL
);

INSERT INTO stored_images (bytes)
SELECT coalesce(sum(stored_bytes), 0) FROM build_jobs AS job
 WHERE state = 'completed' AND NOT EXISTS (
       SELECT 1 FROM build_jobs AS newer
        WHERE newer.state = 'completed' AND newer.request_hash = job.request_hash AND newer.id > job.id);

-- A hash has one live job at most, so the one that completes is the newest.
CREATE TRIGGER build_jobs_completed AFTER UPDATE OF state ON build_jobs
  WHEN NEW.state = 'completed' AND OLD.state <> 'completed'
BEGIN
    UPDATE stored_images SET bytes = bytes + NEW.stored_bytes - coalesce(
        (SELECT stored_bytes FROM build_jobs
          WHERE request_hash = NEW.request_hash AND state = 'completed' AND id <> NEW.id
          ORDER BY id DESC LIMIT 1), 0);
END;

CREATE TRIGGER build_jobs_forgotten AFTER DELETE ON build_jobs
  WHEN OLD.state = 'completed' AND NOT EXISTS (
       SELECT 1 FROM build_jobs
        WHERE request_hash = OLD.request_hash AND state = 'completed' AND id > OLD.id)
BEGIN
    UPDATE stored_images SET bytes = bytes - OLD.stored_bytes + coalesce(
        (SELECT stored_bytes FROM build_jobs
          WHERE request_hash = OLD.request_hash AND state = 'completed'
          ORDER BY id DESC LIMIT 1), 0);
END;
