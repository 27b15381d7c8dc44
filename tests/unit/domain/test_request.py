import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asu_builder.domain.errors import RequestMalformed
from asu_builder.domain.request import FILESYSTEMS, BuildRequest, Erratum, canonical_json, request_hash
from factories import a_request

names = st.from_regex(r"-?[a-z][a-z0-9+.-]{0,6}", fullmatch=True)
requests = st.builds(
    BuildRequest,
    version=st.sampled_from(["24.10.4", "24.10.5", "25.12.0", "SNAPSHOT"]),
    target=st.sampled_from(["pico/nine", "x86/64"]),
    profile=st.sampled_from(["generic", "acme_tiny", "acme.tiny"]),
    packages=st.lists(names, max_size=4).map(tuple),
    packages_versions=st.dictionaries(names, st.sampled_from(["1", "2-r1"]), max_size=3),
    version_code=st.sampled_from(["", "r1-abc"]),
    diff_packages=st.booleans(),
    defaults=st.sampled_from(["", "uci commit", "uci commit "]),
    rootfs_size_mb=st.sampled_from([None, 1, 104]),
    filesystem=st.sampled_from([None, *FILESYSTEMS]),
    repositories=st.dictionaries(
        st.sampled_from(["a", "b"]), st.sampled_from(["https://x/a", "https://x/b"])
    ),
    repositories_mode=st.sampled_from(["append", "replace"]),
    repository_keys=st.lists(st.sampled_from(["key one", "key two"]), max_size=2).map(tuple),
)


def meaning(request: BuildRequest) -> tuple[Any, ...]:
    """What a request asks for, written down independently of the hash: the table of docs/request-hash.md."""
    return (
        request.version, request.version_code, request.target, request.profile,
        frozenset(request.packages_versions or request.packages),
        frozenset(request.packages_versions.items()),
        request.diff_packages, request.defaults, request.rootfs_size_mb, request.filesystem,
        frozenset(request.repositories.items()),
        request.repositories_mode if request.repositories else None, frozenset(request.repository_keys),
    )  # fmt: skip


@given(requests, requests)
def test_two_requests_share_a_hash_exactly_when_they_mean_the_same(
    first: BuildRequest, second: BuildRequest
) -> None:
    assert (request_hash(first) == request_hash(second)) == (meaning(first) == meaning(second))


@given(requests, st.data())
def test_changing_any_one_field_changes_the_hash_unless_the_meaning_stays(
    request: BuildRequest, data: st.DataObject
) -> None:
    other = data.draw(requests)
    field = data.draw(st.sampled_from([field.name for field in msgspec.structs.fields(BuildRequest)]))
    changed = msgspec.structs.replace(request, **{field: getattr(other, field)})
    assert (request_hash(request) == request_hash(changed)) == (meaning(request) == meaning(changed))


def test_a_hash_is_64_lower_case_hexadecimal_digits() -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", request_hash(a_request()))


SAME: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "order of packages": ({"packages": ("vim", "tmux")}, {"packages": ("tmux", "vim")}),
    "a package twice": ({"packages": ("vim", "vim")}, {"packages": ("vim",)}),
    "order of repositories": (
        {"repositories": {"a": "https://x/a", "b": "https://x/b"}},
        {"repositories": {"b": "https://x/b", "a": "https://x/a"}},
    ),
    "mode without repositories": ({"repositories_mode": "append"}, {"repositories_mode": "replace"}),
    "order of keys": ({"repository_keys": ("k1", "k2")}, {"repository_keys": ("k2", "k1", "k1")}),
    "packages beside packages_versions": (
        {"packages": ("vim",), "packages_versions": {"tmux": "1"}},
        {"packages_versions": {"tmux": "1"}},
    ),
}
DIFFERENT: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a name moved across a boundary": ({"packages": ("ab", "c")}, {"packages": ("a", "bc")}),
    "version and version_code": (
        {"version": "24.10.0", "version_code": "-rc6"},
        {"version": "24.10.0-rc6", "version_code": ""},
    ),
    "removal and package": ({"packages": ("-vim",)}, {"packages": ("vim",)}),
    "a version named or not": ({"packages": ("vim",)}, {"packages_versions": {"vim": ""}}),
    "a blank behind the script": ({"defaults": "x"}, {"defaults": "x "}),
}


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME.keys())
def test_what_counts_as_the_same_request(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    first, second = pair
    assert request_hash(a_request(**first)) == request_hash(a_request(**second))


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_what_is_another_request(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    first, second = pair
    assert request_hash(a_request(**first)) != request_hash(a_request(**second))


def test_a_moving_version_gets_another_hash_with_another_revision() -> None:
    request = a_request(version="SNAPSHOT")
    assert request_hash(request, revision="r1-a") != request_hash(request, revision="r2-b")


def test_an_erratum_retires_only_the_images_it_names() -> None:
    erratum = Erratum("2026-01", "https://example.org/1", re.compile(r"24\.10\..*"))
    spoilt, fine = a_request(version="24.10.5"), a_request(version="25.12.0")
    assert request_hash(spoilt, errata=(erratum,)) != request_hash(spoilt, errata=())
    assert request_hash(fine, errata=(erratum,)) == request_hash(fine, errata=())


DANGEROUS = [
    "$(id)", "`id`", '"', "'", "a b", "a\nb", "a\n", "a;b", "%", "*", "?", "[a]", "a\\b", "a|b", "a>b", "a&b",
    "a\0b", "--x", "é", "~a", "a=b", "@a", "!a", "#",
]  # fmt: skip


@pytest.mark.parametrize("text", DANGEROUS)
@pytest.mark.parametrize(
    "field", ["version", "target", "profile", "version_code", "packages", "filesystem", "repositories_mode"]
)
def test_no_dangerous_character_gets_into_a_request(field: str, text: str) -> None:
    if field == "version_code" and text in ("~a", "--x"):
        return  # a revision may hold these; it is compared and never given to make
    value: Any = (text,) if field == "packages" else f"{text}/nine" if field == "target" else text
    with pytest.raises(RequestMalformed, match=rf"^{field}(\[.*\])?: .*expected "):
        a_request(**{field: value})


@pytest.mark.parametrize("text", DANGEROUS)
def test_no_dangerous_character_gets_into_names_or_addresses_of_repositories(text: str) -> None:
    with pytest.raises(RequestMalformed, match=r"^repositories(\[.*\])?: .*expected "):
        a_request(repositories={text: "https://example.org/x"})
    if text not in ("%", "~a", "a=b", "@a", "--x"):
        with pytest.raises(RequestMalformed, match=r"^repositories(\[.*\])?: .*expected "):
            a_request(repositories={"x": f"https://example.org/{text}"})


@pytest.mark.parametrize("text", DANGEROUS)
def test_no_dangerous_character_gets_into_packages_versions(text: str) -> None:
    with pytest.raises(RequestMalformed, match=r"^packages_versions(\[.*\])?: .*expected "):
        a_request(packages_versions={text: "1"})
    if text not in ("~a", "a=b", "--x"):
        with pytest.raises(RequestMalformed, match=r"^packages_versions(\[.*\])?: .*expected "):
            a_request(packages_versions={"vim": text})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rootfs_size_mb", 0),
        ("rootfs_size_mb", -1),
        ("defaults", "x\0"),
        ("packages", ("x" * 129,)),
        ("packages", ("x",) * 3001),
        ("repository_keys", ("\x07",)),
        ("version", "1" * 65),
    ],
)
def test_values_out_of_bounds_are_refused_with_the_name_of_the_field(field: str, value: Any) -> None:
    with pytest.raises(RequestMalformed, match=rf"^{field}(\[.*\])?: .*expected "):
        a_request(**{field: value})


@given(requests)
def test_wanted_packages_keep_the_askers_order_and_come_once(request: BuildRequest) -> None:
    source = list(request.packages_versions) or list(request.packages)
    assert list(request.wanted) == [name for index, name in enumerate(source) if name not in source[:index]]


texts = st.text(st.characters(), max_size=8) | st.text(st.sampled_from([*map(chr, range(128)), "\ud800"]))


@given(
    st.dictionaries(
        texts, texts | st.lists(texts) | st.dictionaries(texts, texts) | st.integers() | st.none()
    )
)
def test_what_is_hashed_is_what_the_standard_library_writes(value: object) -> None:
    assert canonical_json(value) == json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def test_each_ascii_sign_is_written_as_the_standard_library_writes_it() -> None:
    for sign in map(chr, range(128)):
        assert canonical_json([sign]) == json.dumps([sign]).encode("ascii"), repr(sign)


def test_a_key_that_is_put_into_images_gives_another_hash() -> None:
    request = a_request()
    plain, one, other = (request_hash(request, installed_key=key) for key in ("", "0" * 16, "1" * 16))
    assert plain == request_hash(request)
    assert len({plain, one, other}) == 3


def test_the_hash_of_a_request_stays_what_it_was() -> None:
    request = a_request(
        packages_versions={"vim": "9.1-r1", "luci": "2"}, defaults="echo 'Grüße \x7f'", rootfs_size_mb=104
    )
    assert request_hash(request, rules="r" * 64) == (
        "99a657462c7700fde150c0d9ae5fb2ae30f5e1eade9a3909ae746f6d37c5cb0b"
    )
