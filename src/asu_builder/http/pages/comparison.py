"""What changes from one build to another, and from one version to another, as a page."""

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.core.comparison import ComparedBuilds, ComparedVersions, Comparisons
from asu_builder.domain.access import Caller
from asu_builder.domain.errors import AsuError, TooManyRequests, Unavailable
from asu_builder.http.api.body import parse_request
from asu_builder.http.api.builds import require_hash
from asu_builder.http.errors import answer_error
from asu_builder.http.pages.build_form import offered_versions
from asu_builder.http.pages.form_fields import Fields, read_fields
from asu_builder.http.pages.rendering import Rendering
from asu_builder.http.parts import PageParts
from asu_builder.http.threads import require_admitted

_LONGEST = 64


class _Problem(Struct, frozen=True):
    """Why nothing is compared."""

    sentence: str
    status: int


class ComparisonPage:
    """The address holds what is compared: two builds, or a selection and two versions."""

    def __init__(self, parts: PageParts, rendering: Rendering) -> None:
        self._parts = parts
        self._comparisons: Comparisons = parts.comparisons()
        self._rendering = rendering

    async def show(self, request: Request, caller: Caller) -> Response:
        """The choice of what to compare, and below it what differs."""
        query = request.query_params
        fields, from_version = read_fields(query), query.get("from_version", "").strip()[:_LONGEST]
        build, other = (query.get(name, "").strip().lower()[:_LONGEST] for name in ("build", "other"))
        builds: ComparedBuilds | None = None
        versions: ComparedVersions | None = None
        problem: _Problem | None = None
        try:
            if build and other:
                hashes = require_hash(build), require_hash(other)
                builds = await self._parts.threads.run(self._comparisons.builds, *hashes)
            elif from_version not in ("", fields.version) and fields.target and fields.profile:
                versions = await self._compare_versions(fields, from_version, caller)
        except (TooManyRequests, Unavailable):
            raise
        except AsuError as error:
            problem = _Problem(error.public, answer_error(error).status)
        found = builds or versions
        return self._rendering.page(
            "compare.html",
            request,
            caller=caller,
            status=problem.status if problem else 200,
            problem=problem,
            fields=fields,
            from_version=from_version,
            groups=await self._parts.waiting.ask(caller, "versions", offered_versions, self._parts.catalog),
            build=build,
            other=other,
            builds=builds,
            versions=versions,
            changes=found.changes if found else None,
        )

    async def _compare_versions(self, fields: Fields, from_version: str, caller: Caller) -> ComparedVersions:
        parts = self._parts
        await require_admitted(caller, parts.limit_previews, parts.threads)
        wanted, _ = parse_request(fields.body(parts.client))
        what = f"compare {from_version!r} {fields!r}"
        return await parts.waiting.ask(caller, what, self._comparisons.versions, wanted, from_version)
