"""A person's way through the pages of the real service, with a browser that runs no script."""

import hashlib
import html
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from e2e.conftest import Make, slow_service
from e2e.service import Answer, Client
from factories import eventually

_FORM = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
_DEVICE = {"version": "25.12.0", "target": "pico/nine", "profile": "acme_widget-5"}


@pytest.fixture
def visitor(make_local: Make) -> Iterator[Client]:
    """Somebody who looks at a running service whose upstream is known."""
    service = make_local().start()
    with service.client() as client:
        address = f"/build?{urlencode(_DEVICE)}"
        assert eventually(lambda: client.get(address).status == 200)
        yield client


def send(client: Client, address: str, **fields: str) -> Answer:
    return client.ask("POST", address, urlencode(fields).encode(), _FORM)


def at_the_end(client: Client, sent: Answer) -> str:
    """The page of the build that a form led to, when it has ended."""
    assert sent.status == 303, sent.body
    address = sent.headers["location"]
    client.wait(address.rpartition("/")[2])
    return client.get(address).body.decode()


def test_a_device_is_found_built_for_and_its_image_downloaded(visitor: Client) -> None:
    found = visitor.get("/build?version=25.12.0&search=widget").body.decode()
    link = next(
        html.unescape(link) for link in re.findall('href="(/build[?][^"]+)"', found) if "_widget-5" in link
    )
    form = visitor.get(link).body.decode()
    defaults = re.search("<textarea[^>]*>([^<]+)</textarea>", form)
    assert defaults and "base-files" in defaults[1]
    sent = send(
        visitor,
        "/build",
        **_DEVICE,
        packages=f"{defaults[1]} tmux",
        diff_packages="1",
        defaults="echo a-secret",
    )
    page = at_the_end(visitor, sent)
    assert "The images are ready" in page and "a-secret" not in page
    assert '<th scope="row">tmux</th>' in page and 'data-stage="building_image"' in page
    image, digest = (
        re.search(r'(/store/[^"]+sysupgrade[^"]*)"', page),
        re.search("<code data-copy>(.{64})<", page),
    )
    assert image and digest
    assert hashlib.sha256(visitor.get(image[1]).body).hexdigest() == digest[1]


@pytest.mark.parametrize(
    ("packages", "correction", "contained"),
    [
        ("lucy", "nearest", "luci"),
        ("tmux no-such-package-at-all", "without no-such-package-at-all", "tmux"),
        ("dnsmasq-full", "without dnsmasq", "dnsmasq-full"),
    ],
)
def test_a_failed_build_is_repeated_corrected(
    visitor: Client, packages: str, correction: str, contained: str
) -> None:
    failed = send(visitor, "/build", **_DEVICE, packages=packages)
    page = at_the_end(visitor, failed)
    assert 'data-reason="impossible_selection"' in page and f'data-correction="{correction}"' in page
    page = at_the_end(visitor, send(visitor, f"{failed.headers['location']}/again", correction=correction))
    assert f'<th scope="row">{contained}</th>' in page


def test_the_first_caller_alone_cancels(
    sample_world: Distribution, upstream: DownloadServer, tmp_path: Path
) -> None:
    with slow_service(sample_world, upstream, tmp_path, seconds=5) as service, service.client() as client:
        address = f"/build?{urlencode(_DEVICE)}"
        assert eventually(lambda: client.get(address).status == 200)
        sent = send(client, "/build", **_DEVICE)
        cookie = sent.headers["set-cookie"].partition(";")[0]
        cancel = f"{sent.headers['location']}/cancel"
        assert client.ask("POST", cancel, b"", _FORM).status == 403
        assert client.ask("POST", cancel, b"", {**_FORM, "Cookie": "asu_cancel=guessed"}).status == 403
        assert client.ask("POST", cancel, b"", {**_FORM, "Cookie": cookie}).status == 303
        assert b"The build was cancelled" in client.get(sent.headers["location"]).body
