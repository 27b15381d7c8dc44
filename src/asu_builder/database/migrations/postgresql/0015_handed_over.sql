-- oldest program: schema 14
-- Where the images of a building job wait that no worker has (worker ''): for a process with the keys to sign them.

ALTER TABLE build_jobs ADD COLUMN handed_over TEXT COLLATE "C";
