"""What clients send: the body of a build request, forgiven where old clients need it.

Every forgiveness is for a client in the field (facts on clients, §2.1 and §5). What comes out is a
`BuildRequest`, valid by construction; what cannot be meant is `RequestMalformed`, which names the
field in one sentence because the Firmware Selector shows nothing for any other form of detail.
"""

import re
from typing import Annotated, Any

import msgspec

from asu_builder.domain.errors import RequestMalformed, RequestRejected
from asu_builder.domain.request import (
    AS_OF,
    FILESYSTEM,
    FILESYSTEMS,
    MAX_DEFAULTS_LENGTH,
    MAX_PACKAGES,
    MAX_REPOSITORIES,
    ON_MISSING,
    PACKAGE,
    REPOSITORIES_MODES,
    TARGET,
    VERSION,
    VERSION_CODE,
    BuildRequest,
    place_of,
    require_package_names,
    require_usable_repositories,
)
from asu_builder.http.openapi import A_REVISION, says

UNKNOWN_CLIENT = "unknown/0"
_MAX_CLIENT = 64
_UNSAFE_IN_CLIENT = re.compile(r"[^A-Za-z0-9._+~/-]")
_FLAGS = [True, False, 0, 1, "true", "false", "0", "1", "", None]
_MODES = [*REPOSITORIES_MODES, "", None]
_DIGITS = re.compile(r"\s*[0-9]{1,18}\s*", re.ASCII)
_AUC = re.compile(r"auc[ /(]+v?([A-Za-z0-9._~+-]+)")


def _whole(pattern: re.Pattern[str]) -> str:
    return f"^{pattern.pattern}$"


_PackageName = Annotated[str, says("A package", "luci", "-ppp", pattern=rf"^(\+?{PACKAGE.pattern})?$")]


class BuildRequestBody(msgspec.Struct):
    """A build request as clients write it; unknown keys are ignored, null and "" mean absent."""

    version: Annotated[
        str, says("A release, or a snapshot", "24.10.4", "24.10-SNAPSHOT", pattern=_whole(VERSION))
    ]
    target: Annotated[str, says("Target and subtarget", "ath79/generic", pattern=_whole(TARGET))]
    profile: Annotated[
        str,
        says(
            "The device's profile or a name it reports; commas mean underscores",
            "tplink_archer-c7-v5",
            "tplink,archer-c7-v5",
            pattern="^[A-Za-z0-9][A-Za-z0-9_.,-]{0,127}$",
        ),
    ]
    distro: Annotated[str | None, says("Only openwrt is built here", "openwrt")] = None
    version_code: Annotated[
        str | None,
        says(
            "Build only if the ImageBuilder has this revision", A_REVISION, "", pattern=_whole(VERSION_CODE)
        ),
    ] = None
    packages: Annotated[
        list[_PackageName] | None,
        says("Packages to install; -name removes one", ["luci", "-ppp"], maxItems=MAX_PACKAGES),
    ] = None
    packages_versions: Annotated[
        dict[str, str] | None,
        says(
            "Packages with the versions the caller was shown; replaces packages",
            {"vim": "9.1.0-r1"},
            maxProperties=MAX_PACKAGES,
        ),
    ] = None
    diff_packages: Annotated[
        bool | int | str | None,
        says("The request lists all wanted packages; other defaults are removed", True, enum=_FLAGS),
    ] = None
    defaults: Annotated[
        str | None,
        says(
            "A script for the first boot, where the operator allows it; how long it may be says the overview",
            "uci set system.@system[0].hostname=router",
            maxLength=MAX_DEFAULTS_LENGTH,
        ),
    ] = None
    rootfs_size_mb: Annotated[
        int | float | str | None,
        says(
            "Size of the root partition in MiB; how large it may be says the overview",
            256,
            "256",
            minimum=1,
            maximum=1_000_000,
            multipleOf=1,
            pattern=r"^(\s*0*[1-9][0-9]{0,5}\s*)?$",
        ),
    ] = None
    filesystem: Annotated[
        str | None,
        says(
            "Build only this root file system", *FILESYSTEMS, "", None, pattern=f"^({FILESYSTEM.pattern})?$"
        ),
    ] = None
    repositories: Annotated[
        dict[str, str] | None,
        says("Name to address; the operator's list decides", {}, maxProperties=MAX_REPOSITORIES),
    ] = None
    repositories_mode: Annotated[
        str | None,
        says("Whether they are added to the default repositories or replace them", "append", enum=_MODES),
    ] = None
    repository_keys: Annotated[
        list[str] | None,
        says("Public keys of these repositories, PEM or usign", [], maxItems=MAX_REPOSITORIES),
    ] = None
    on_missing: Annotated[
        str | None,
        says(
            "drop leaves out packages that surely exist in none of the repositories; fail does not",
            "fail",
            enum=[*ON_MISSING, "", None],
        ),
    ] = None
    as_of: Annotated[
        str | None,
        says(
            "Build with the packages of today: today, or the digest of the indexes that a result names",
            "today",
            pattern=_whole(AS_OF),
        ),
    ] = None
    client: Annotated[Any, says("The client, for statistics only", "owut/2026.03.30")] = None


_DECODER = msgspec.json.Decoder(BuildRequestBody)


def parse_request(body: bytes) -> tuple[BuildRequest, str]:
    """The request in a POST body, and the name its client gives itself ("" if none).

    Raises `RequestMalformed` (422) or, for another distribution, `RequestRejected` (400).
    """
    try:
        sent = _DECODER.decode(body)
    except msgspec.ValidationError as error:
        raise _explained(str(error), body) from error
    except msgspec.DecodeError as error:
        raise RequestMalformed(f"body: expected a JSON object; {error}") from error
    except UnicodeDecodeError as error:
        raise RequestMalformed("body: expected JSON in UTF-8") from error
    except RecursionError as error:
        raise RequestMalformed("body: expected a JSON object, not one nested this deeply") from error
    size = sent.rootfs_size_mb
    try:
        if sent.diff_packages not in _FLAGS:
            raise RequestMalformed("diff_packages: expected true or false", field="diff_packages")
        # LuCI sends the text of a form field, some clients a float.
        is_whole = isinstance(size, int) or (isinstance(size, float) and size.is_integer())
        if size not in (None, "") and not is_whole and not _DIGITS.fullmatch(str(size)):
            raise RequestMalformed("rootfs_size_mb: expected a whole number of MiB", field="rootfs_size_mb")
        request = BuildRequest(
            version=sent.version,
            target=sent.target,
            # LuCI sends the board name, whose vendor is separated by a comma.
            profile=sent.profile.replace(",", "_"),
            # apk and opkg print a leading + for dependencies; some clients copied it.
            packages=tuple(name.removeprefix("+") for name in sent.packages or () if name),
            packages_versions={
                name.removeprefix("+"): version
                for name, version in (sent.packages_versions or {}).items()
                if name
            },
            version_code=sent.version_code or "",
            diff_packages=sent.diff_packages in (True, "true", "1"),
            defaults=sent.defaults or "",
            rootfs_size_mb=None if size in (None, "") else int(size),
            filesystem=sent.filesystem or None,
            repositories=sent.repositories or {},
            repositories_mode=sent.repositories_mode or "replace",
            repository_keys=tuple(key for key in sent.repository_keys or () if key),
            on_missing=sent.on_missing or "fail",
            as_of=sent.as_of or "",
        )
        require_usable_repositories(request.repositories)
    except RequestMalformed:
        # Entries are counted as the client counts them, who also sent those that are left out.
        names = ((number, name.removeprefix("+")) for number, name in enumerate(sent.packages or ()) if name)
        require_package_names("packages", names)
        raise
    if sent.distro and sent.distro != "openwrt":
        raise RequestRejected(f"Unsupported distro: {sent.distro[:64]}", field="distro")
    client = sent.client[:256] if isinstance(sent.client, str) else ""
    return request, _UNSAFE_IN_CLIENT.sub("", client)[:_MAX_CLIENT]


def client_from_user_agent(user_agent: str) -> str:
    """The client of a request that does not name one; only auc is known by its User-Agent."""
    match = _AUC.match(user_agent[:256])
    return f"auc/{match[1]}"[:_MAX_CLIENT] if match else UNKNOWN_CLIENT


_MISSING = r"Object missing required field `(\w+)`"
_EXPECTED = r"Expected `([^`]+)`, got `([^`]+)`(?: - at `(?:key in )?\$\.?([^`]*)`)?"
_PLACE = r".* - at `\$\.?([^`]*)`"
_PLAIN = {
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def explain(message: str) -> str:
    """One of msgspec's messages as a sentence that starts with the field's name."""
    if match := re.match(_MISSING, message):
        return f"{match[1]}: expected a value, but the field is missing"
    if match := re.match(_EXPECTED, message):
        expected = dict.fromkeys(_plain(word) for word in match[1].split(" | "))
        return f"{match[3] or 'body'}: expected {' or '.join(expected)}, got {_plain(match[2])}"
    place = re.match(_PLACE, message)
    return f"{place[1] if place else 'body'}: expected a smaller value"


_FIELD = r"[a-z_]{1,64}"


def _explained(message: str, body: bytes) -> RequestMalformed:
    sentence = explain(message)
    named = re.match(_FIELD, sentence)
    field = named[0] if named and named[0] in BuildRequestBody.__struct_fields__ else ""
    if sentence.startswith(f"{field}[...]"):
        # msgspec does not say which value of a map it was: here, the first that is no text. That cannot be
        # found where the body is broken behind the value, or names the field again.
        try:
            sent = msgspec.json.decode(body)[field]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            sent = None
        entries = sent.items() if isinstance(sent, dict) else ()
        key = next((key for key, value in entries if not isinstance(value, str)), None)
        sentence = place_of(field, key) + sentence[len(f"{field}[...]") :]
    return RequestMalformed(sentence, field=field)


def _plain(word: str) -> str:
    return _PLAIN.get(word, word)
