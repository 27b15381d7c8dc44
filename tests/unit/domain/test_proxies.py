"""Which requests go through a proxy: the variables as curl, wget and Python read them."""

import pytest

from asu_builder.domain.addresses import is_loopback, read_proxies

PROXY, OTHER = "http://proxy.example:3128", "http://other.example:8080"
FAR, SECURE = "http://downloads.example.org/x", "https://downloads.example.org/x"


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, FAR, ""),
        ({"http_proxy": PROXY}, FAR, PROXY),
        ({"HTTP_PROXY": PROXY}, FAR, PROXY),
        ({"http_proxy": PROXY, "HTTP_PROXY": OTHER}, FAR, PROXY),
        ({"http_proxy": "", "HTTP_PROXY": OTHER}, FAR, ""),
        ({"http_proxy": PROXY}, SECURE, ""),
        ({"https_proxy": PROXY}, SECURE, PROXY),
        ({"HTTPS_PROXY": PROXY, "http_proxy": OTHER}, SECURE, PROXY),
        ({"all_proxy": PROXY}, SECURE, PROXY),
        ({"ALL_PROXY": PROXY, "http_proxy": OTHER}, FAR, OTHER),
        ({"http_proxy": "proxy.example:3128"}, FAR, PROXY),
        ({"http_proxy": f" {PROXY} "}, FAR, PROXY),
    ],
)
def test_the_proxy_of_a_scheme_is_used_and_lower_case_wins(
    environment: dict[str, str], url: str, proxy: str
) -> None:
    assert read_proxies(environment).of(url) == proxy


@pytest.mark.parametrize(
    ("exempt", "url", "direct"),
    [
        ("*", FAR, True),
        ("example.org", FAR, True),
        (".example.org", FAR, True),
        ("*.example.org", FAR, True),
        ("downloads.example.org", FAR, True),
        ("DOWNLOADS.example.ORG", FAR, True),
        ("downloads.example.org", "http://downloads.example.org.:80/", True),
        ("ample.org", FAR, False),
        ("example.com", FAR, False),
        ("org", FAR, True),
        ("a.example, b.example , example.org", FAR, True),
        ("a.example b.example example.org", FAR, True),
        ("example.org:80", FAR, True),
        ("example.org:80", SECURE, False),
        ("example.org:443", SECURE, True),
        ("example.org:8080", "http://downloads.example.org:8080/", True),
        ("example.org:8080", FAR, False),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("10.1.2.3/8", "http://10.9.9.9/", True),
        ("10.1.2.3", "http://10.1.2.3:81/", True),
        ("10.1.2.3:81", "http://10.1.2.3:81/", True),
        ("10.1.2.3:81", "http://10.1.2.3/", False),
        ("2.3", "http://10.1.2.3/", False),
        ("fd00::/8", "http://[fd00::1]:80/", True),
        ("fd00::1", "http://[fd00::1]/", True),
        ("[fd00::1]:81", "http://[fd00::1]:81/", True),
        ("[fd00::1]:81", "http://[fd00::1]/", False),
        ("fe80::/10", "http://[fd00::1]/", False),
        ("10.0.0.0/8", FAR, False),
        ("", FAR, False),
        (". , ,:80,[,/,*:1,999.0.0.0/8", FAR, False),
    ],
)
def test_no_proxy_knows_names_ports_networks_and_a_star(exempt: str, url: str, direct: bool) -> None:
    environment = {"all_proxy": PROXY, "NO_PROXY": exempt}
    assert read_proxies(environment).of(url) == ("" if direct else PROXY)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "0.0.0.0",
        "::ffff:127.0.0.1",
    ],
)
def test_this_machine_itself_is_never_asked_through_a_proxy(host: str) -> None:
    assert is_loopback(host)
    named = f"[{host}]" if ":" in host else host
    assert read_proxies({"all_proxy": PROXY}).of(f"http://{named}:8080/") == ""


@pytest.mark.parametrize("host", ["localhost.example.org", "128.0.0.1", "notlocalhost", "::2", ""])
def test_nothing_else_is_taken_for_this_machine(host: str) -> None:
    assert not is_loopback(host)


def test_builds_get_the_variables_in_both_cases() -> None:
    given = {"HTTP_PROXY": PROXY, "https_proxy": OTHER, "NO_PROXY": "a.example, 10.0.0.0/8"}
    found = read_proxies(given).environment(shares_network=False)
    assert found == {
        "http_proxy": PROXY,
        "HTTP_PROXY": PROXY,
        "https_proxy": OTHER,
        "HTTPS_PROXY": OTHER,
        "no_proxy": "a.example,10.0.0.0/8",
        "NO_PROXY": "a.example,10.0.0.0/8",
    }
    assert read_proxies({}).environment(shares_network=True) == {}


def test_a_proxy_on_loopback_is_of_use_only_to_builds_that_share_this_network() -> None:
    proxies = read_proxies({"http_proxy": "http://127.0.0.1:3128", "https_proxy": OTHER})
    assert proxies.environment(shares_network=True)["http_proxy"] == "http://127.0.0.1:3128"
    assert "http_proxy" not in proxies.environment(shares_network=False)
    assert proxies.environment(shares_network=False)["https_proxy"] == OTHER


BROKEN = [
    "http://[x",
    "http://[::1",
    "http://",
    "http://proxy.example:99999",
    "http://proxy.example:0",
    "http://a:b:c",
]


@pytest.mark.parametrize("value", BROKEN)
def test_a_variable_that_is_no_address_is_named_and_reaches_no_build(value: str) -> None:
    proxies = read_proxies({"HTTP_PROXY": value, "https_proxy": OTHER})
    assert proxies.unreadable() == ("http_proxy",)
    for shares_network in (True, False):
        handed = proxies.environment(shares_network=shares_network)
        assert handed == {"https_proxy": OTHER, "HTTPS_PROXY": OTHER}
    assert read_proxies({"http_proxy": PROXY, "all_proxy": "socks5h://127.0.0.1:1080"}).unreadable() == ()


@pytest.mark.parametrize("url", ["http://[x]/y", "http://a:99999/", "http://[::1", "nonsense"])
def test_what_is_no_address_has_no_proxy(url: str) -> None:
    assert read_proxies({"all_proxy": PROXY, "no_proxy": "b.example"}).of(url) == ""
