"""The search's part of the route table."""

from asu_builder.web.documents import Problem
from asu_builder.web.openapi import Operation
from asu_builder.web.search_documents import DescribedDeviceDocument, DevicesDocument, PackagesDocument

_READ = ("GET", "HEAD")
_REFUSED = {
    400: ("There is no such version, or a parameter makes no sense", Problem),
    503: ("Upstream was never asked for this and is slow; Retry-After says when to ask again", Problem),
}
_UNKNOWN = {404: ("There is no such target or profile", Problem)}

SEARCH = (
    Operation(
        "/api/v1/devices",
        _READ,
        "The devices of a version that have every word of a text among their names, the best first.",
        {200: ("The devices", DevicesDocument), **_REFUSED},
        query=("version searched", "search", "limit of a search"),
    ),
    Operation(
        "/api/v1/devices/{version}/{target}/{subtarget}/{profile}",
        _READ,
        "One device and its packages, by its profile or a name that it reports.",
        {200: ("The device", DescribedDeviceDocument), **_REFUSED, **_UNKNOWN},
    ),
    Operation(
        "/api/v1/packages",
        _READ,
        "The packages of a version and target that have every word of a text in their names.",
        {200: ("The packages", PackagesDocument), **_REFUSED, **_UNKNOWN},
        query=("version searched", "target searched", "search", "limit of a search"),
    ),
)
