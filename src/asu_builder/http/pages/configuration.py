"""The settings of the running process, for operators."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from asu_builder.domain.access import Caller, Right
from asu_builder.http.pages.rendering import Rendering
from asu_builder.http.parts import PageParts


class Line(Struct, frozen=True):
    """One setting as text."""

    name: str
    value: str
    origin: str
    default: str
    meaning: str


class ConfigurationPage:
    """The page, for tokens that may read."""

    def __init__(self, parts: PageParts, rendering: Rendering) -> None:
        self._parts = parts
        self._rendering = rendering

    async def show(self, request: Request, caller: Caller) -> Response:
        """Raises `NotAuthenticated` or `NotAllowed`."""
        caller.require(Right.READ)
        document = await self._parts.threads.run(self._parts.configuration)
        lines = [
            Line(
                setting.name,
                _text(setting.value),
                setting.origin,
                "depends on the host" if setting.default is None else _text(setting.default),
                setting.meaning,
            )
            for setting in document.settings
        ]
        return self._rendering.page(
            "configuration.html",
            request,
            caller=caller,
            chosen=[line for line in lines if line.origin != "default"],
            standing=[line for line in lines if line.origin == "default"],
        )


def _text(value: Any) -> str:
    """A value as a settings file has it; a word for an empty one."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_entry, value)) or "none"
    if isinstance(value, str):
        return value or "empty"
    return "none" if value == {} else msgspec.json.encode(value).decode()


def _entry(entry: Any) -> str:
    """One entry of a list; of a token its name, and in brackets its rights and class."""
    if not isinstance(entry, Mapping):
        return str(entry)
    also = [*entry.get("rights", ()), *([entry["priority"]] if "priority" in entry else [])]
    return f"{entry['name']} ({', '.join(also)})" if also else str(entry["name"])
