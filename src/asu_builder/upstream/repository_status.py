"""What a repository of a request answers, where the package manager does not say it.

Both package managers call `wget -q`, which ends alike for 404 and for 503 and prints neither.
"""

import logging
import time
from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

from asu_builder.domain.addresses import is_loopback
from asu_builder.loading import LOADING
from asu_builder.outgoing import open_pool
from asu_builder.upstream.server import MOST_HOPS, STATUSES, RedirectRefused, Redirects, watch_peers

_log = logging.getLogger(__name__)

_SECONDS = 5.0
"""For a connection, and for the head of an answer."""
_WHOLE_SECONDS = 10.0
"""For one file with all its redirects, beyond which no further request is made."""


class RepositoryStatus:
    """Asks for the head of one file of a repository; safe to use from any thread.

    Only addresses that the operator's allow list lets through may be asked for. A name that leads to
    an address which is not public is not asked, unless the download server itself lies on such a one:
    the owner of an allowed name must not make this process ask this machine or the network around it.
    An address, or `localhost`, in place of a name is the operator's own word.
    """

    def __init__(self, upstream_url: str) -> None:
        self._around = Redirects(upstream_url, ())

    def ask(self, url: str) -> int:
        """The HTTP status of a file, behind redirects within its own host; 0 where none can be had."""
        with LOADING:
            import urllib3

        try:
            return self._ask(url)
        except (urllib3.exceptions.HTTPError, RedirectRefused, OSError, ValueError) as error:
            _log.info("A repository of a request could not be asked: %s", error)
            return 0

    def _ask(self, url: str) -> int:
        redirects = Redirects(url, ())
        until = time.monotonic() + _WHOLE_SECONDS
        for _ in range(MOST_HOPS + 1):
            status, location = self._get(url)
            if status not in STATUSES or not location:
                return status
            if time.monotonic() > until:
                break
            url = redirects.follow(url, location)
        raise RedirectRefused(f"{url} leads on and on")

    def _get(self, url: str) -> tuple[int, str]:
        with LOADING:
            import urllib3

        timeout = urllib3.Timeout(connect=_SECONDS, read=_SECONDS)
        with open_pool(url, maxsize=1, timeout=timeout, retries=False) as pool:
            # Behind a proxy the peer is the proxy, which alone knows where a name leads.
            if not pool.proxy:
                watch_peers(pool, self._allows(urlsplit(url).hostname or ""))
            answer = pool.request("GET", url, preload_content=False, redirect=False)
            answer.close()  # the body may be large, and says nothing
            return answer.status, answer.headers.get("Location", "")

    def _allows(self, host: str) -> Callable[[str], None]:
        return (lambda _: None) if _is_literal(host) else self._around.require_public


def _is_literal(host: str) -> bool:
    """Whether a host is an address or this machine itself, so that the allow list says so, too."""
    try:
        ip_address(host)
    except ValueError:
        return is_loopback(host)
    return True
