"""The database: the queue and everything else that is kept in rows."""
