import pytest

from asu_builder.domain.errors import RequestRejected
from asu_builder.domain.repositories import APK, OPKG, key_files, render_repositories, require_allowed

ALLOWED = ("https://example.org/feeds", "http://mirror.example.org:8080/")


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/feeds",
        "https://example.org/feeds/a/b",
        "https://example.org:443/feeds/x",
        "http://mirror.example.org:8080/any",
    ],
)
def test_addresses_at_or_below_an_allowed_one_pass(url: str) -> None:
    require_allowed({"x": url}, ALLOWED)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/feeds/x",
        "https://example.org/feedsx",
        "https://example.org/feeds/../x",
        "https://example.org/feeds/./x",
        "https://example.org/feeds/%2e%2e/x",
        "https://example.org/feeds//x",
        "https://example.org:8443/feeds/x",
        "https://user@example.org/feeds/x",
        "https://example.org@evil.example/feeds/x",
        "https://evil.example\\@example.org/feeds/x",
        "https://sub.example.org/feeds/x",
        "https://example.org.evil.example/feeds/x",
        "https://example.org:port/feeds/x",
        "https://example.org/",
        "https://example.org/feeds/x?y",
        "https://example.org/feeds/x#y",
        "http://mirror.example.org/any",
    ],
)
def test_every_way_around_the_allow_list_is_refused(url: str) -> None:
    with pytest.raises(RequestRejected, match=r"^Repository not allowed: "):
        require_allowed({"x": url}, ALLOWED)


def test_nothing_is_allowed_where_nothing_is_listed() -> None:
    require_allowed({}, ())
    with pytest.raises(RequestRejected):
        require_allowed({"x": "https://example.org/feeds"}, ())


PRESENT = "src/gz core https://a.example/core\nsrc imagebuilder file:packages\n\noption check_signature\n"
EXTRA = {"mine": "https://example.org/mine"}


def test_no_repositories_change_nothing_in_either_mode() -> None:
    for mode in ("append", "replace"):
        assert render_repositories(PRESENT, {}, mode=mode, file=OPKG) == PRESENT


def test_opkg_append_keeps_what_is_there() -> None:
    text = render_repositories(PRESENT, EXTRA, mode="append", file=OPKG)
    assert text == PRESENT + "src/gz mine https://example.org/mine\n"


def test_opkg_replace_keeps_the_local_index_and_the_signature_check() -> None:
    assert render_repositories(PRESENT, EXTRA, mode="replace", file=OPKG).splitlines() == [
        "src/gz mine https://example.org/mine",
        "src imagebuilder file:packages",
        "option check_signature",
    ]


def test_a_name_that_is_taken_gets_a_number() -> None:
    """opkg skips a second `src` of a name, and a build would go without the repository asked for."""
    present = "#src/gz free https://a.example/f\nsrc/gz core https://a.example/core\n\tsrc  core_2  file:x\n"
    extra = {name: f"https://example.org/{name}" for name in ("core", "core_2", "core_3", "free", "option")}
    lines = render_repositories(present, extra, mode="append", file=OPKG).splitlines()
    names = [line.split()[1] for line in lines if line.strip().startswith("src")]
    assert names == ["core", "core_2", "core_3", "core_2_2", "core_3_2", "free", "option", "imagebuilder"]
    assert [line.rpartition("/")[2] for line in lines if "example.org" in line] == sorted(extra)
    replaced = render_repositories(present, extra, mode="replace", file=OPKG)
    assert all(f"src/gz {name} {url}\n" in replaced for name, url in extra.items())


def test_apk_lists_bare_addresses() -> None:
    present = "https://a.example/core/packages.adb\n"
    extra = {"mine": "https://example.org/mine/packages.adb"}
    assert (
        render_repositories(present, extra, mode="append", file=APK)
        == present + "https://example.org/mine/packages.adb\n"
    )
    assert (
        render_repositories(present, extra, mode="replace", file=APK)
        == "https://example.org/mine/packages.adb\n"
    )


USIGN = "untrusted comment: demo key\nRWQBI0VniavN70flRXeQRiADGMGa5mJz1N19RriBCs/2KBsg4A0nA/S8\n"
PEM = "-----BEGIN PUBLIC KEY-----\nMFkwEwYH\n-----END PUBLIC KEY-----\n"


def test_keys_are_named_by_their_content() -> None:
    files = key_files([PEM, USIGN])
    assert set(files) == {"custom-0.pem", "0123456789abcdef"}
    assert files["0123456789abcdef"].splitlines()[1] == USIGN.splitlines()[1]


@pytest.mark.parametrize("key", ["", "hello", "RWQB", "untrusted comment: x\n!!!!"])
def test_a_text_that_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(RequestRejected, match="repository_keys"):
        key_files([key])
