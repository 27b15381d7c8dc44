"""Pages for people. No script, no CDN."""

import html

from starlette.responses import HTMLResponse

from asu_builder.services.health import HealthReport

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;"
    "color:#222;background:#fff}"
    "code{background:#f0f0f0;padding:.1em .3em;border-radius:3px;overflow-wrap:anywhere}"
    "th code,td:first-child code{white-space:nowrap}"
    "h2{font-size:1.1rem;margin-top:2rem}ul{padding-left:1.2rem}"
    "table{border-collapse:collapse}td,th{text-align:left;padding:.3rem 1rem .3rem 0;vertical-align:top}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}code{background:#333}a{color:#8bf}}"
)
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def front_page(report: HealthReport, *, version: str) -> HTMLResponse:
    """What this server is, how it is, and where to go."""
    rows = "".join(
        f"<tr><th>{html.escape(part)}</th><td>{html.escape(verdict.status)}</td>"
        f"<td>{html.escape(verdict.sentence)}</td></tr>"
        for part, verdict in report.verdicts.items()
    )
    return page(
        "ASU Builder",
        "<p>This server builds OpenWrt images with exactly the packages a router needs. Routers ask for "
        "them with <code>owut</code>, with LuCI's <em>Attended Sysupgrade</em>, or through the Firmware "
        "Selector; point any of them to this address.</p>"
        f"<p>State: <strong>{html.escape(report.status)}</strong></p><table>{rows}</table>"
        '<p><a href="/docs">Interface</a> · <a href="/openapi.json">OpenAPI</a> · '
        '<a href="/health">Health</a> · <a href="/api/v1/stats">Queue</a></p>'
        f"<p><small>Version {html.escape(version)}</small></p>",
    )


def page(title: str, body: str) -> HTMLResponse:
    """A whole page in the one style; `body` is HTML."""
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style><h1>{title}</h1>{body}</html>",
        headers=_HEADERS,
    )
