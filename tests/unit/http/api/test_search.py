"""The addresses that find devices and packages."""

from collections.abc import Iterator
from urllib.parse import quote

import pytest

from asgi_client import AsgiClient
from factories import many_devices
from web_scene import DescribingUpstream, Scene

DEVICES = "/api/v1/devices?version=24.10.5"
PACKAGES = "/api/v1/packages?version=24.10.5&target=pico/nine"


@pytest.fixture
def upstream(scene: Scene) -> DescribingUpstream:
    scene.upstream = found = DescribingUpstream()
    return found


@pytest.fixture
def asking(scene: Scene, upstream: DescribingUpstream) -> Iterator[AsgiClient]:
    with AsgiClient(scene.app()) as running:
        yield running


def test_devices_are_found_with_what_a_build_request_needs(asking: AsgiClient) -> None:
    answer = asking.get(f"{DEVICES}&search=widget+ACME")
    assert answer.json == {
        "version": "24.10.5",
        "devices": [
            {
                "title": "Acme Widget 5",
                "target": "pico/nine",
                "profile": "acme_widget-5",
                "vendor": "Acme",
                "model": "Widget 5",
                "variant": "",
            }
        ],
        "more": False,
        "guessed": False,
    }
    assert answer.header("access-control-allow-origin") == "*"
    assert answer.header("cache-control") == "no-store"


def test_without_a_search_the_first_ones_come_and_more_says_that_there_are_others(
    asking: AsgiClient, upstream: DescribingUpstream
) -> None:
    upstream.listed = many_devices(300)
    assert (len(asking.get(DEVICES).json["devices"]), asking.get(DEVICES).json["more"]) == (20, True)
    assert len(asking.get(f"{DEVICES}&limit=3").json["devices"]) == 3
    assert len(asking.get(f"{DEVICES}&limit=9999").json["devices"]) == 100


def test_a_mistyped_name_is_answered_as_a_guess(asking: AsgiClient) -> None:
    document = asking.get(f"{DEVICES}&search=wigdet").json
    assert document["guessed"]
    assert document["devices"][0]["profile"] == "acme_widget-5"


@pytest.mark.parametrize(
    ("address", "status", "detail"),
    [
        ("/api/v1/devices?version=24.10.99", 400, "Unsupported version: 24.10.99"),
        ("/api/v1/devices?version=x", 400, "Unsupported branch: x"),
        ("/api/v1/devices", 400, "version: expected the version to search in"),
        (f"{DEVICES}&search={'x' * 65}", 400, "search: expected at most 64 characters"),
        (f"{DEVICES}&limit=many", 400, "limit: expected a number from 1 to 100"),
        ("/api/v1/packages?version=24.10.5", 400, "target: expected the target to search in"),
        ("/api/v1/packages?version=24.10.5&target=no/such", 404, "24.10.5 has no target no/such"),
        ("/api/v1/devices/24.10.99/pico/nine/acme_old", 400, "Unsupported version: 24.10.99"),
        ("/api/v1/devices/24.10.5/no/such/acme_old", 404, "24.10.5 has no target no/such"),
        (
            "/api/v1/devices/24.10.5/pico/nine/acme_olt",
            404,
            "24.10.5 has no profile acme_olt for pico/nine. Did you mean acme_old?",
        ),
    ],
)
def test_what_cannot_be_searched_is_said_in_a_sentence(
    asking: AsgiClient, address: str, status: int, detail: str
) -> None:
    answer = asking.get(address)
    assert (answer.status, answer.json["status"], answer.json["detail"]) == (status, status, detail)
    assert answer.header("access-control-allow-origin") == "*"


def test_64_characters_of_any_kind_are_a_search(asking: AsgiClient) -> None:
    strange = quote("ü\n𝔛" * 21)
    assert asking.get(f"{DEVICES}&search={strange}").status == 200


def test_packages_are_found_those_that_begin_with_the_text_first(asking: AsgiClient) -> None:
    document = asking.get(f"{PACKAGES}&search=lu&limit=2").json
    assert document == {
        "version": "24.10.5",
        "target": "pico/nine",
        "packages": [{"name": "luci", "version": "1"}, {"name": "luci-app-vpn", "version": "1"}],
        "more": True,
    }


def test_a_device_is_described_with_its_packages(asking: AsgiClient) -> None:
    assert asking.get("/api/v1/devices/24.10.5/pico/nine/acme,widget-5").json == {
        "version": "24.10.5",
        "title": "Acme Widget 5",
        "target": "pico/nine",
        "profile": "acme_widget-5",
        "default_packages": ["base-files", "ppp"],
        "device_packages": ["kmod-usb", "-ppp"],
        "supported_devices": ["acme,widget-5", "widget5"],
    }


def test_the_same_question_is_answered_from_memory_for_some_seconds(
    scene: Scene, asking: AsgiClient, upstream: DescribingUpstream
) -> None:
    for _ in range(5):
        asking.get(f"{DEVICES}&search=acme")
    assert upstream.asked == 1
    scene.seconds += 21
    asking.get(f"{DEVICES}&search=acme")
    assert upstream.asked == 2


def test_nothing_is_looked_for_again_soon_because_it_may_be_on_its_way(
    scene: Scene, asking: AsgiClient, upstream: DescribingUpstream
) -> None:
    assert asking.get(f"{DEVICES}&search=brandnew").json["devices"] == []
    upstream.listed = many_devices(3)
    scene.seconds += 2
    assert asking.get(f"{DEVICES}&search=linksys").json["devices"]
    assert len(asking.get(DEVICES).json["devices"]) == 3
