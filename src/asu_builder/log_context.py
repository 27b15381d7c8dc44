"""What a line in the log is about: the request that is being answered, and the build concerned.

Context variables, so that functions need not hand them down. A thread starts without them: `Threads` in
`http` carries them over, a worker sets its own.
"""

from contextvars import ContextVar

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request being answered; empty outside one."""
CURRENT_HASH: ContextVar[str] = ContextVar("request_hash", default="")
"""The build concerned; empty where there is none. The log shows its first digits only."""

SHOWN_DIGITS = 12
"""As many digits of a request hash find a job, and open nothing: 52 of 64 stay secret."""
