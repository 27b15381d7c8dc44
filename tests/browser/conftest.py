"""One Chromium for the whole folder, windows that watch it, and the service that it looks at."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from asu_builder.domain.access import new_token
from asu_builder.http.pages.session import COOKIE
from asu_sample.distribution import Distribution
from asu_sample.server import DownloadServer
from browser.pictures import Pictures
from browser.watched import Window
from e2e.conftest import local_settings
from e2e.service import Service
from factories import eventually
from podman_service import APK_VERSION, OPKG_VERSION, SAMPLE_TARGET
from tools import require_tool

ROOT = Path(__file__).resolve().parents[2]
_ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # The same pixels everywhere.
    "--disable-lcd-text",
    "--font-render-hinting=none",
    # Whatever a page asks for elsewhere fails, and is noted.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]

Open = Callable[..., Window]


@dataclass(frozen=True)
class Site:
    """A running service and the token of its operator."""

    service: Service
    token: str

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self.service.port}"


@dataclass(frozen=True)
class Past:
    """Hashes of builds that are over."""

    built: str
    failed: str
    older: str
    """Of the release before."""


# For this folder only: Playwright keeps an event loop in the thread of the tests as long as it runs.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's Chromium with a fresh profile and no way out of this host."""
    require_tool("chromium")
    program = shutil.which("chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=program, headless=True, chromium_sandbox=False, args=_ARGUMENTS
        )
        yield started
        started.close()


@pytest.fixture(scope="package")
def browser_upstream(sample_world: Distribution) -> Iterator[DownloadServer]:
    """The download server behind the pages."""
    with DownloadServer(sample_world.downloads) as server:
        yield server


@pytest.fixture(scope="package")
def site(sample_world: Distribution, browser_upstream: DownloadServer) -> Iterator[Site]:
    """A service on the sample distribution; must not have printed a traceback."""
    secret, digest = new_token()
    operator = {"name": "operator", "digest": digest, "rights": ["read", "operate"]}
    settings = local_settings(sample_world, browser_upstream.url) | {
        "api_tokens": json.dumps([operator]),
        "contact": "asu@example.org",
    }
    # A short path: pictures show it.
    with TemporaryDirectory(prefix="asu-") as folder:
        service = Service(Path(folder), settings)
        try:
            service.start()
            get_to_know_upstream(service)
            yield Site(service, secret)
        finally:
            service.end()
        assert "Traceback" not in service.stderr()


def get_to_know_upstream(service: Service) -> None:
    """Returns when the form is there: the first who asks for a version after a start is told to come back."""
    with service.client() as client:
        for version in (APK_VERSION, OPKG_VERSION):
            form = f"/build?version={version}&target={SAMPLE_TARGET}&profile=acme_widget-5"
            assert eventually(lambda form=form: client.get(form).status == 200), client.get(form)  # type: ignore[misc]


A_REQUEST = {"version": APK_VERSION, "target": SAMPLE_TARGET, "profile": "acme_widget-5"}
"""One that is fine; 25.12.0 with apk."""
FORM = "/build?version={version}&target={target}&profile={profile}".format(**A_REQUEST)
"""Where its packages are chosen."""


@pytest.fixture(scope="package")
def past(site: Site) -> Past:
    """What the site has built when somebody looks at its pages."""
    with site.service.client() as client:
        client.build({**A_REQUEST, "profile": "acme_small", "packages": ["sample-service"]})
        client.build({**A_REQUEST, "profile": "acme_safe", "packages": ["sample-service", "sample-uses-lib"]})
        built = client.build({**A_REQUEST, "packages": ["sample-uses-lib"]}).json
        client.build({**A_REQUEST, "packages": ["sample-uses-lib"]})
        failed = client.build({**A_REQUEST, "packages": ["luci-app-attendedsysupgrad"]}).json
        older = client.build({**A_REQUEST, "version": OPKG_VERSION, "packages": ["sample-uses-lib"]}).json
    assert (built["status"], failed["status"], older["status"]) == (200, 500, 200)
    return Past(built["request_hash"], failed["request_hash"], older["request_hash"])


@pytest.fixture
def window(browser: Browser, site: Site) -> Iterator[Open]:
    """Opens windows; whatever goes wrong in one of them fails the test."""
    opened: list[Window] = []

    def make(*, signed_in: bool = False, **options: Any) -> Window:
        opened.append(Window(browser, site.url, **options))
        if signed_in:
            opened[-1].context.add_cookies([{"name": COOKIE, "value": site.token, "url": site.url}])
        return opened[-1]

    yield make
    for one in opened:
        one.close()
    for one in opened:
        one.require_no_problem()


@pytest.fixture(scope="package")
def pictures(browser: Browser) -> Iterator[Pictures]:
    """Keeps pictures of pages where ASU_SCREENSHOTS says, else in a folder that git ignores."""
    with browser.new_context() as context:
        yield Pictures(Path(os.environ.get("ASU_SCREENSHOTS") or ROOT / ".screenshots"), context.new_page())
