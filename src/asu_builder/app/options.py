"""What each part is told of the settings."""

from asu_builder import __version__
from asu_builder.domain.access import Right, Token
from asu_builder.domain.job import Priority
from asu_builder.http.api.metadata import Announcement
from asu_builder.http.door import DoorLimits
from asu_builder.settings import Settings


def announcement(settings: Settings) -> Announcement:
    """What people and clients are told about this server."""
    return Announcement(
        version=__version__,
        upstream_url=settings.public_upstream_url or settings.upstream_url,
        contact=settings.contact,
        allow_defaults=settings.allow_defaults,
        repository_allow_list=settings.repository_allow_list,
        max_custom_rootfs_size_mb=settings.max_custom_rootfs_size_mb,
        max_defaults_length=settings.max_defaults_length,
        imagebuilder_image=settings.imagebuilder_image.replace("{registry}", settings.imagebuilder_registry),
    )


def door_limits(settings: Settings) -> DoorLimits:
    """What one caller may send, and how slowly."""
    return DoorLimits(
        head=settings.max_head_size,
        request_line=settings.max_request_line,
        body=settings.max_body_size,
        fields=settings.max_fields,
        head_seconds=settings.head_timeout.total_seconds(),
        body_seconds=settings.body_timeout.total_seconds(),
        reader_seconds=settings.reader_timeout.total_seconds(),
        connections=settings.max_connections_per_address,
    )


def tokens(settings: Settings) -> tuple[Token, ...]:
    """Whose tokens are known."""
    return tuple(
        Token(
            name=token["name"],
            digest=token["digest"],
            rights=frozenset(Right(right) for right in token.get("rights", ())),
            priority=Priority[token.get("priority", "normal").upper()],
        )
        for token in settings.api_tokens
    )
