"""The public key that images are signed with, its certificate, and revokers."""

from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.domain.errors import BuildNotFound
from asu_builder.http.api.wire import Problem, RenderedResponse, render_json
from asu_builder.http.openapi import operation, says
from asu_builder.http.threads import Threads
from asu_builder.ports import ImageSigning

_NAMES = ["0123456789abcdef", "0123456789abcdef.ucert"]


class KeysDocument(msgspec.Struct):
    """What there is to check images with."""

    files: Annotated[
        tuple[str, ...],
        says(
            "Names below /keys/: 16 digits are a public key, .ucert its certificate, .revoke a revoker",
            _NAMES,
        ),
    ]


class Keys:
    """Serves what everybody needs to check images, as the files that OpenWrt's tools read."""

    def __init__(self, signing: ImageSigning | None, threads: Threads) -> None:
        """Without `signing` nothing is offered."""
        self._offers = signing.offers if signing else dict[str, bytes]
        self._threads = threads

    @operation("/keys", answers={200: ("The files", KeysDocument)})
    async def list_keys(self, request: Request) -> RenderedResponse:
        """List the public keys, certificates and revokers of this server."""
        return render_json(KeysDocument(tuple(await self._threads.run(self._offers))))

    @operation(
        "/keys/{name}",
        answers={200: ("The file", None), 404: ("There is no such file", Problem)},
        content_type="application/octet-stream",
    )
    async def download_key(self, request: Request) -> Response:
        """Download the public key that images are signed with, its certificate, or a revoker."""
        content = (await self._threads.run(self._offers)).get(request.path_params["name"])
        if content is None:
            raise BuildNotFound("There is no such key here.")
        return Response(content, media_type="application/octet-stream")
