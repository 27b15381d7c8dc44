-- Which waiting job came, went or got another place, in this order: what tells a process, that has the queue
-- in its memory, what to read again. Old moves are deleted; the last one stays.

CREATE TABLE queue_moves (
    seq INTEGER PRIMARY KEY,
    job_id BIGINT NOT NULL
);

CREATE TRIGGER build_jobs_came AFTER INSERT ON build_jobs
  WHEN NEW.state = 'pending'
BEGIN
    INSERT INTO queue_moves (job_id) VALUES (NEW.id);
END;

CREATE TRIGGER build_jobs_moved AFTER UPDATE OF state, deprioritized, priority, fair_start ON build_jobs
  WHEN 'pending' IN (OLD.state, NEW.state)
   AND (OLD.state, OLD.deprioritized, OLD.priority, OLD.fair_start)
    <> (NEW.state, NEW.deprioritized, NEW.priority, NEW.fair_start)
BEGIN
    INSERT INTO queue_moves (job_id) VALUES (NEW.id);
END;

CREATE TRIGGER build_jobs_left AFTER DELETE ON build_jobs
  WHEN OLD.state = 'pending'
BEGIN
    INSERT INTO queue_moves (job_id) VALUES (OLD.id);
END;
