"""The settings in effect: value, default, where each was chosen and what it means. Never a secret."""

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from msgspec import NODEFAULT
from msgspec.structs import FieldInfo, fields

from asu_builder.settings import LoadedSettings, Settings, Size
from asu_builder.settings.units import write_duration, write_size
from asu_builder.web.operator_documents import ConfigurationDocument, SettingDocument
from asu_builder.web.setting_meanings import MEANINGS

DEFAULT = "default"
_SHOWN_OF_A_TOKEN = ("name", "rights", "priority")
# Greedy on purpose: a password may hold the sign that ends it, and too much hidden does no harm.
_USER = re.compile(r"//\S*@")
_PASSWORD_WITHOUT_SCHEME = re.compile(r"^[^\s/@:]+:[^\s/@]+@")
_QUERY = re.compile(r"(//[^\s?#]*)[?#]\S*")


def describe_settings(loaded: LoadedSettings) -> ConfigurationDocument:
    """Every setting. Of tokens only names, rights and priorities; addresses without user and query."""
    found = [
        SettingDocument(
            name=entry.name,
            value=_written(entry.name, getattr(loaded.settings, entry.name)),
            origin=loaded.origins.get(entry.name, DEFAULT),
            default=_written(entry.name, _default(entry)),
            meaning=MEANINGS[entry.name],
        )
        for entry in fields(Settings)
    ]
    return ConfigurationDocument(tuple(sorted(found, key=lambda setting: setting.origin == DEFAULT)))


def _default(entry: FieldInfo) -> object:
    """None where it is made anew on each host."""
    if entry.default is not NODEFAULT:
        return entry.default
    return {} if entry.default_factory is dict else None


def _written(name: str, value: Any) -> Any:
    if name == "api_tokens":
        return [{key: token[key] for key in _SHOWN_OF_A_TOKEN if key in token} for token in value]
    return _plain(value)


def _plain(value: Any) -> Any:
    match value:
        case timedelta():
            return write_duration(value)
        case Size():
            return write_size(value)
        case str() | Path():
            return _without_secrets(str(value))
        case Mapping():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case tuple() | list():
            return [_plain(inner) for inner in value]
    return value


def _without_secrets(text: str) -> str:
    """An address without user, password and query, which may be keys; other text as it is."""
    hidden = _USER.sub("//…@", text)
    hidden = _PASSWORD_WITHOUT_SCHEME.sub("…@", hidden)
    return _QUERY.sub(r"\1?…", hidden)
