"""The public keys of this server, the certificate of the one for images, and revokers."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.domain.errors import BuildNotFound
from asu_builder.http.api.wire import Problem, RenderedResponse, render_json
from asu_builder.http.openapi import operation, says
from asu_builder.http.threads import Threads
from asu_builder.ports import ImageSigning, StatementSigning

_NAMES = ["0123456789abcdef", "0123456789abcdef.ucert", "fedcba9876543210.pem"]


class KeysDocument(msgspec.Struct):
    """What there is to check images with."""

    files: Annotated[
        tuple[str, ...],
        says(
            "Names below /keys/: 16 digits are the public key of images, .ucert its certificate, .revoke a "
            "revoker, .pem the public key of statements on where images came from",
            _NAMES,
        ),
    ]


class Keys:
    """Serves what everybody needs to check images, as the files that OpenWrt's and others' tools read."""

    def __init__(self, signers: Sequence[ImageSigning | StatementSigning | None], threads: Threads) -> None:
        """What is None offers nothing."""
        self._signers = [signer for signer in signers if signer]
        self._threads = threads

    def _offers(self) -> dict[str, bytes]:
        return {name: content for signer in self._signers for name, content in signer.offers().items()}

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
        """Download a public key, a certificate, or a revoker."""
        content = (await self._threads.run(self._offers)).get(request.path_params["name"])
        if content is None:
            raise BuildNotFound("There is no such key here.")
        return Response(content, media_type="application/octet-stream")
