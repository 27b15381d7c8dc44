"""The pages' own style sheets and scripts, served from memory under names that say their content."""

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from asu_builder.domain.errors import BuildNotFound

ROOT = Path(__file__).parent.parent / "static"
_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOREVER = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}


class StaticFiles:
    """Every file below `static/`, read once; few and small.

    All share one digest in their address, so that modules may import each other by relative names
    and no browser ever mixes two versions.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._files = {
            path.name: path.read_bytes() for path in sorted(root.iterdir()) if path.suffix in _KINDS
        }
        digest = hashlib.sha256()
        for name, content in self._files.items():
            digest.update(name.encode() + b"\0" + content)
        self._digest = digest.hexdigest()[:12]

    def address(self, name: str) -> str:
        """Where a file is found. Raises `KeyError` for one that does not exist."""
        _ = self._files[name]
        return f"/static/{self._digest}/{name}"

    async def serve(self, request: Request) -> Response:
        """The file, for ever; 404 for another version's."""
        name = request.path_params["name"]
        if request.path_params["digest"] != self._digest or name not in self._files:
            raise BuildNotFound("There is no such file; load the page again.")
        kind = _KINDS[Path(name).suffix]
        return Response(self._files[name], headers={**_FOREVER, "content-type": kind})
