import pytest

from asu_builder.domain.addresses import Address, parse_address
from asu_builder.domain.errors import RequestMalformed
from asu_builder.domain.repositories import is_allow_list_entry, require_allowed
from asu_builder.domain.request import require_usable_repositories

ODD = [
    "http://[x]/y",
    "http://[::1/y",
    "http://::1]/y",
    "http://[]/y",
    "http://example.org:0/y",
    "http://example.org:00080/y",
    "http://example.org:080/y",
    "http://example.org:65536/y",
    "http://example.org:/y",
    "http://010.0.0.1/y",
    "http://1.2.3/y",
    "http://256.1.1.1/y",
    "http:///y",
    "http://-x.org/y",
    "http://x..org/y",
    "ftp://example.org/y",
    "http://example.org/" + "x" * 2000,
    "http://exa mple.org/",
    "",
]


@pytest.mark.parametrize("text", ODD)
def test_what_could_be_read_in_two_ways_is_no_address(text: str) -> None:
    assert parse_address(text) is None
    with pytest.raises(RequestMalformed, match=r'^repositories\["mine"\]: ') as caught:
        require_usable_repositories({"mine": text})
    assert caught.value.field == "repositories"
    with pytest.raises(Exception, match="Repository not allowed"):
        require_allowed({"mine": text}, ["http://example.org"])
    assert not is_allow_list_entry(text)


def test_an_address_is_its_parts() -> None:
    assert parse_address("http://my_host:81") == Address("http", "my_host", 81, "")
    assert parse_address("https://Example.org/a//b") == Address("https", "example.org", 443, "/a//b")
    assert parse_address("http://[2001:db8::1]:8080") == Address("http", "[2001:db8::1]", 8080, "")
    assert parse_address("http://192.0.2.1/x") == Address("http", "192.0.2.1", 80, "/x")


@pytest.mark.parametrize("name", [".", "..", "imagebuilder"])
def test_names_that_mean_something_else_are_refused(name: str) -> None:
    with pytest.raises(RequestMalformed, match="repositories: "):
        require_usable_repositories({name: "https://example.org/x"})


@pytest.mark.parametrize(
    "entry",
    [
        "*",
        "https://*",
        "https://*.example.org/",
        "https://example.org/*",
        "https://a.example/;b",
        "example.org",
    ],
)
def test_an_entry_of_the_allow_list_that_can_allow_nothing_is_refused(entry: str) -> None:
    assert not is_allow_list_entry(entry)


def test_an_entry_may_hold_what_a_request_fills_in() -> None:
    assert is_allow_list_entry("https://example.org/{version}/{arch}/")
