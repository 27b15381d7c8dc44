"""A browser's window that notes whatever should not happen in it."""

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Self
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

from factories import eventually

PHONE, DESKTOP = 390, 1200
"""Widths of a window in CSS pixels."""
PATIENCE = 120_000
"""Milliseconds that a page may take for anything, at most: many times what it does."""
expect.set_options(timeout=PATIENCE)

_VIOLATION = "Content Security Policy"
# Each document reports its own violations, also those that Chromium does not print.
_REPORT_VIOLATIONS = f"""
document.addEventListener("securitypolicyviolation", (event) => {{
  console.error("{_VIOLATION}:", event.violatedDirective, event.blockedURI, event.sourceFile);
}});
"""
_SERIOUS = ("serious", "critical")
_INNER = ("data", "blob", "about")
_IS_WIDER = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
_STICKS_OUT = """
() => [...document.querySelectorAll("body *")]
  .filter((element) => element.getBoundingClientRect().right > innerWidth + 1
    || element.getBoundingClientRect().left + element.scrollWidth > innerWidth + 1)
  .map((element) => element.outerHTML.slice(0, 120)).slice(0, 8)
"""

_FOCUS = """
() => {
  const element = document.activeElement;
  if (!element || element === document.body) return null;
  const at = [...document.querySelectorAll("*")].indexOf(element);
  const style = getComputedStyle(element), place = element.getBoundingClientRect();
  const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  const seen = outlined && place.width > 0 && place.right > 0 && place.bottom > 0;
  return { mark: `${at} ${element.outerHTML.slice(0, 90)}`, seen };
}
"""


class Faults(Enum):
    """Which faults of access to look for: another shape or colour brings only its own."""

    ALL = "all"
    OF_SHAPE = "of shape"
    OF_COLOUR = "of colour"


# A target's size is WCAG 2.2, which axe leaves out unless it is asked.
_AXE: Mapping[Faults, Mapping[str, Any]] = {
    Faults.ALL: {"rules": {"target-size": {"enabled": True}}},
    Faults.OF_SHAPE: {"rules": {"target-size": {"enabled": True}, "color-contrast": {"enabled": False}}},
    Faults.OF_COLOUR: {"runOnly": ["color-contrast", "link-in-text-block"]},
}


class Window:
    """One page in a context of its own, looking at one service. `problems` is what went wrong so far.

    A problem is a message of an error or warning in the console, an uncaught error, a violation of the
    Content Security Policy, a request that failed, and any request to another host.
    """

    def __init__(self, browser: Browser, url: str, *, width: int = DESKTOP, **options: Any) -> None:
        """`url` is the service's own address; `options` are those of Playwright's `new_context`."""
        self.url = url
        self.problems: list[str] = []
        self.requests: list[Request] = []
        self._host = urlsplit(url).netloc
        self._expected: list[re.Pattern[str]] = []
        chosen: dict[str, Any] = {
            "viewport": {"width": width, "height": 844 if width == PHONE else 800},
            "locale": "en-GB",
            "timezone_id": "Europe/Berlin",
            "reduced_motion": "reduce",
            "base_url": url,
            "is_mobile": width == PHONE,
            "has_touch": width == PHONE,
            **options,
        }
        self.context = browser.new_context(**chosen)
        self.context.set_default_timeout(PATIENCE)
        self.context.add_init_script(_REPORT_VIOLATIONS)
        self.page: Page = self.context.new_page()
        self._listen()

    def _listen(self) -> None:
        context = self.context
        context.on("console", self._console)
        context.on("weberror", lambda error: self.problems.append(f"uncaught: {error.error}"))
        context.on("request", self._request)
        context.on("requestfailed", self._request_failed)
        self.page.on("websocket", lambda socket: self._require_own_host(socket.url))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") or _VIOLATION in message.text:
            self.problems.append(f"{message.type}: {message.text} ({message.location.get('url')})")

    def _request(self, request: Request) -> None:
        self.requests.append(request)
        self._require_own_host(request.url)

    def _require_own_host(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _INNER and parts.netloc != self._host:
            self.problems.append(f"left the host: {url}")

    def _request_failed(self, request: Request) -> None:
        # Leaving a page ends what it still reads, and a download ends the navigation that began it.
        if request.failure != "net::ERR_ABORTED":
            self.problems.append(f"failed: {request.method} {request.url}: {request.failure}")

    def expect_problem(self, pattern: str) -> None:
        """One that this test provokes on purpose, as a regular expression; it must then happen."""
        self._expected.append(re.compile(pattern))

    def wait_for_problem(self, pattern: str) -> None:
        """Returns when such a one has come; fails when it does not."""

        def has_come() -> bool:
            self.page.wait_for_timeout(10)  # events arrive only while Playwright is asked for something
            return any(re.search(pattern, problem) for problem in self.problems)

        assert eventually(has_come), self.problems

    def require_no_problem(self) -> None:
        """Fails with everything that was not expected, and with what was expected in vain."""
        unexpected = [
            problem
            for problem in self.problems
            if not any(pattern.search(problem) for pattern in self._expected)
        ]
        assert unexpected == [], unexpected
        for pattern in self._expected:
            assert any(pattern.search(problem) for problem in self.problems), f"never: {pattern.pattern}"

    def open(self, path: str, *, status: int = 200) -> Self:
        """Loads a page of the service and waits for its scripts."""
        if status >= 400:
            self.expect_problem(rf"status of {status} .*\({re.escape(self.url + path)}\)")
        response = self.page.goto(path)
        assert response is not None and response.status == status, (path, response)
        return self

    def sign_in(self, token: str) -> Self:
        """As an operator does at the foot of any page."""
        self.page.get_by_text("Operator", exact=True).click()
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("button", name="Sign out").wait_for()
        return self

    def require_accessible(self, faults: Faults = Faults.ALL) -> None:
        """Fails with every serious or critical fault that axe finds in the page as it is now."""
        # While a part is being fetched it is drawn faintly.
        self.page.locator('[aria-busy="true"]').first.wait_for(state="detached")
        options = {"resultTypes": ["violations"], **_AXE[faults]}
        violations = Axe().run(self.page, options=options).response["violations"]
        found = [_fault(violation) for violation in violations if violation["impact"] in _SERIOUS]
        assert found == [], "\n".join(found)

    def require_no_sideways_scrolling(self, *, width: int | None = None) -> None:
        """Fails with the elements that stick out of the window, which is made so wide first."""
        if width is not None:
            self.page.set_viewport_size({"width": width, "height": 844})
        assert not self.page.evaluate(_IS_WIDER), "\n".join(self.page.evaluate(_STICKS_OUT))

    def tab_stops(self, most: int = 60) -> list[str]:
        """What Tab reaches from the top of the page, in order; fails where nobody sees where the focus is."""
        stops: list[str] = []
        for _ in range(most):
            self.page.keyboard.press("Tab")
            found = self.page.evaluate(_FOCUS)
            if found is None or found["mark"] in stops:
                return stops
            assert found["seen"], f"the focus is not seen: {found['mark']}"
            stops.append(found["mark"])
        return stops

    def close(self) -> None:
        """Ends the context with everything in it."""
        self.context.close()


def _fault(violation: Mapping[str, Any]) -> str:
    places = [f"{node['html'][:160]}: {node.get('failureSummary', '')}" for node in violation["nodes"][:5]]
    return f"{violation['id']} ({violation['impact']}): {violation['help']}: {places}"
