"""How every request leaves this program: directly, or through the proxy of the environment."""

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from asu_builder.domain.addresses import host_of, read_proxies
from asu_builder.loading import LOADING

if TYPE_CHECKING:
    import urllib3


def proxy_of(url: str, environment: Mapping[str, str] | None = None) -> str:
    """The address of the proxy for a URL; "" for none."""
    return read_proxies(os.environ if environment is None else environment).of(url)


def open_pool(
    url: str, *, environment: Mapping[str, str] | None = None, **options: Any
) -> "urllib3.PoolManager":
    """Connections for one server; `options` are urllib3's.

    Raises `OSError` for a proxy whose address is none.
    """
    with LOADING:
        import urllib3

    proxy = proxy_of(url, environment)
    if not proxy:
        return urllib3.PoolManager(**options)
    try:
        if not host_of(proxy):
            raise ValueError
        parts = urlsplit(proxy)
        headers = None
        if parts.username:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers = urllib3.make_headers(proxy_basic_auth=secret)
        address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        return urllib3.ProxyManager(address, proxy_headers=headers, **options)
    except (ValueError, urllib3.exceptions.HTTPError):
        # Its text may hold a password.
        raise OSError(
            "the proxy that the environment names (http_proxy, https_proxy) has no address like "
            "http://proxy.example.org:3128"
        ) from None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came of, down to the first one."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
