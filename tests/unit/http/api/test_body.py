"""What clients send is forgiven where a client in the field needs it, and refused in a sentence."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asu_builder.domain.errors import RequestMalformed, RequestRejected
from asu_builder.http.api.body import UNKNOWN_CLIENT, client_from_user_agent, parse_request
from factories import a_request
from fake_builds import a_body


def _parse(**changes: object) -> object:
    return parse_request(json.dumps(a_body(**changes)).encode())[0]


def _client(**changes: object) -> str:
    return parse_request(json.dumps(a_body(**changes)).encode())[1]


def test_the_least_body_is_a_request_with_every_default() -> None:
    assert _parse() == a_request()


@pytest.mark.parametrize("size", [256, "256", " 256 ", 256.0])
def test_trap_11_the_size_may_come_as_text_or_float(size: object) -> None:
    assert _parse(rootfs_size_mb=size) == a_request(rootfs_size_mb=256)


@pytest.mark.parametrize(
    "name",
    [
        "distro",
        "version_code",
        "packages",
        "packages_versions",
        "diff_packages",
        "defaults",
        "rootfs_size_mb",
        "filesystem",
        "repositories",
        "repositories_mode",
        "repository_keys",
        "client",
    ],
)
def test_trap_11_null_means_absent_for_everything_optional(name: str) -> None:
    assert _parse(**{name: None}) == a_request()


def test_trap_12_the_empty_things_that_the_firmware_selector_always_sends_mean_absent() -> None:
    empty = _parse(defaults="", repositories={}, repository_keys=[], version_code="", client="")
    assert empty == a_request()


def test_empty_texts_mean_absent() -> None:
    sent = _parse(filesystem="", rootfs_size_mb="", repositories_mode="", distro="", repository_keys=[""])
    assert sent == a_request()
    assert _parse(packages=["vim", ""], packages_versions={"": "1"}) == a_request(packages=("vim",))


def test_trap_13_distro_is_never_sent_and_may_only_be_openwrt() -> None:
    assert _parse(distro="openwrt") == a_request()
    with pytest.raises(RequestRejected, match=r"^Unsupported distro: immortal$") as refused:
        _parse(distro="immortal")
    assert not isinstance(refused.value, RequestMalformed)


def test_trap_13_repositories_are_an_object() -> None:
    url = "https://example.org/packages"
    assert _parse(repositories={"custom": url}) == a_request(repositories={"custom": url})
    with pytest.raises(RequestMalformed, match=r"^repositories: expected an object or null, got a list$"):
        _parse(repositories=[url])


def test_trap_14_every_comma_of_a_board_name_becomes_an_underscore() -> None:
    assert _parse(profile="acme,widget,5") == a_request(profile="acme_widget_5")


def test_trap_21_removals_kernel_and_libc_are_packages() -> None:
    names = ["-ppp", "kernel", "libc", "vim"]
    assert _parse(packages=names) == a_request(packages=tuple(names))


def test_a_leading_plus_is_dropped_from_package_names() -> None:
    assert _parse(packages=["+vim", "nano"]) == a_request(packages=("vim", "nano"))
    assert _parse(packages_versions={"+vim": "9"}) == a_request(packages_versions={"vim": "9"})


@pytest.mark.parametrize("sent", [True, 1, "true", "1"])
def test_true_may_be_written_in_several_ways(sent: object) -> None:
    assert _parse(diff_packages=sent) == a_request(diff_packages=True)


@pytest.mark.parametrize("sent", [False, 0, "false", "0", ""])
def test_false_may_be_written_in_several_ways(sent: object) -> None:
    assert _parse(diff_packages=sent) == a_request()


def test_trap_23_unknown_keys_are_ignored() -> None:
    assert _parse(advanced_mode="1", efi={"deep": [None]}) == a_request()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"packages": "vim"}, "packages: expected a list or null, got text"),
        ({"packages": ["vim", 5]}, "packages[1]: expected text, got a number"),
        ({"packages_versions": {"vim": None}}, 'packages_versions["vim"]: expected text, got null'),
        ({"version": 24}, "version: expected text, got a number"),
        ({"diff_packages": "perhaps"}, "diff_packages: expected true or false"),
        ({"diff_packages": 2}, "diff_packages: expected true or false"),
        ({"rootfs_size_mb": "large"}, "rootfs_size_mb: expected a whole number of MiB"),
        ({"rootfs_size_mb": 1.5}, "rootfs_size_mb: expected a whole number of MiB"),
        ({"rootfs_size_mb": True}, "rootfs_size_mb: expected a number or text or null, got true or false"),
        ({"rootfs_size_mb": 0}, "rootfs_size_mb: expected a positive number of MiB"),
        ({"rootfs_size_mb": 10**30}, "rootfs_size_mb: expected a positive number of MiB"),
        ({"profile": "a/../b"}, "profile: expected letters, digits and . _ -"),
        ({"profile": "acme\n"}, "profile: expected letters, digits and . _ -"),
        ({"filesystem": "squashfs;id"}, "filesystem: expected a name like squashfs"),
        ({"filesystem": "$(id)"}, "filesystem: expected a name like squashfs"),
        ({"filesystem": "-x"}, "filesystem: expected a name like squashfs"),
        ({"filesystem": "x" * 33}, "filesystem: expected a name like squashfs"),
        ({"repositories_mode": "merge"}, "repositories_mode: expected append or replace"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence_that_names_the_field(
    changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(RequestMalformed) as refused:
        _parse(**changes)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "body: expected a JSON object; Input data was truncated"),
        (b"[]", "body: expected an object, got a list"),
        (b"null", "body: expected an object, got null"),
        (b"{}", "version: expected a value, but the field is missing"),
        (b'{"version":', "body: expected a JSON object; Input data was truncated"),
        (b"version=24.10.5", "body: expected a JSON object; JSON is malformed"),
        (b'{"version": NaN}', "body: expected a JSON object; JSON is malformed"),
        (b'{"version": "\xff"}', "body: expected JSON in UTF-8"),
        (b'{"version": "\\udc00"}', "body: expected a JSON object; JSON is malformed"),
        (b'{"rootfs_size_mb": 1e999}', "rootfs_size_mb: expected a smaller value"),
        (b'{"rootfs_size_mb": ' + b"9" * 5000 + b"}", "rootfs_size_mb: expected a smaller value"),
        (b'{"client": ' + b"[" * 100_000, "body: expected a JSON object, not one nested this deeply"),
        (b'{"x": ' + b'{"x": ' * 100_000, "body: expected a JSON object, not one nested this deeply"),
        (b'{"packages_versions": {"a": null, "b": Infinity}}', "packages_versions: expected text"),
        (b'{"packages_versions": {"a": null}, "client": "\xff"}', "packages_versions: expected text"),
        (b'{"packages_versions": {"a": 1}, "x": ' + b"[" * 100_000, "packages_versions: expected text"),
        (b'{"packages_versions": {"a": 1}, "rootfs_size_mb": 1e999}', "packages_versions: expected text"),
        (b'{"packages_versions": {"a": 1}, "packages_versions": null}', "packages_versions: expected text"),
        (b'{"packages_versions": {"a": 1}, "packages_versions": {}}', "packages_versions: expected text"),
        ('{"version": "24.10.5"}'.encode("utf-16"), "body: expected a JSON object; JSON is malformed"),
    ],
)
def test_hostile_bodies_are_refused_in_a_sentence(body: bytes, sentence: str) -> None:
    with pytest.raises(RequestMalformed) as refused:
        parse_request(body)
    assert str(refused.value).startswith(sentence)


def test_of_a_key_that_comes_twice_the_last_one_counts() -> None:
    text = json.dumps(a_body())[:-1] + ', "profile": "other"}'
    assert parse_request(text.encode())[0] == a_request(profile="other")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([*a_body(), "packages", "packages_versions", "rootfs_size_mb", "client"]), _JSON)
def test_any_value_in_any_field_is_a_request_or_a_sentence(name: str, value: object) -> None:
    try:
        request, client = parse_request(json.dumps(a_body(**{name: value})).encode())
    except RequestRejected as error:
        assert str(error)
    else:
        assert request.version
        assert client.isascii()


def test_a_client_is_the_name_in_the_body() -> None:
    assert _client(client="owut/2026.03.30") == "owut/2026.03.30"
    assert _client(client="luci/undefined") == "luci/undefined"


def test_a_client_name_is_cut_to_64_safe_characters() -> None:
    assert _client(client="<b>\r\n" + "x" * 500) == "b" + "x" * 63


def test_a_client_that_is_no_text_is_ignored() -> None:
    assert _client(client={"name": 1}) == ""


@pytest.mark.parametrize(
    ("agent", "client"),
    [
        ("auc (0.3.2)", "auc/0.3.2"),
        ("auc/0.3.2", "auc/0.3.2"),
        ("Mozilla/5.0", UNKNOWN_CLIENT),
        ("aucune/1", UNKNOWN_CLIENT),
        ("", UNKNOWN_CLIENT),
    ],
)
def test_trap_20_only_auc_is_known_by_its_user_agent(agent: str, client: str) -> None:
    assert client_from_user_agent(agent) == client


@pytest.mark.parametrize(
    "wrong", [{"as_of": "yesterday"}, {"as_of": 3}, {"as_of": "A" * 64}, {"on_missing": "maybe"}]
)
def test_what_cannot_be_meant_of_todays_packages_is_refused_with_its_field(wrong: dict[str, object]) -> None:
    body = {"version": "24.10.5", "target": "pico/nine", "profile": "acme_widget-5", **wrong}
    with pytest.raises(RequestMalformed, match=next(iter(wrong))):
        parse_request(json.dumps(body).encode())
