-- Old requests are found among those that no job carries: no statement reads requests by time, and each new one
-- would still be written into this index.

DROP INDEX build_requests_asked;
