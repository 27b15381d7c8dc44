"""What a failure carries to programs, and what everybody may read of one."""

import json

import pytest

from asu_builder.core.health import Health
from asu_builder.domain.errors import (
    BuildNotFound,
    BuildProblem,
    EngineUnavailable,
    FailureReason,
    QueueFull,
    RequestMalformed,
    RequestRejected,
    Side,
    UpstreamUnavailable,
)
from asu_builder.domain.health import CheckResult
from asu_builder.domain.job import BuildFailure
from asu_builder.http.api.body import parse_request
from asu_builder.http.errors import answer_error
from factories import the_case

SECRET = (
    "The download server http://mirror.internal does not answer: HTTPConnectionPool(host='mirror.internal', "
    'port=80): Max retries exceeded (Caused by NameResolutionError("<urllib3.connection.HTTPConnection>")).'
)


def test_one_bad_name_among_five_is_named() -> None:
    """Case 16: 422 that says `packages[3]: ".extra-system-deps."`."""
    with pytest.raises(RequestMalformed) as caught:
        parse_request(the_case("16-which-name.json").encode())
    assert str(caught.value).startswith('packages[3]: ".extra-system-deps."')
    answer = answer_error(caught.value)
    assert answer.status == 422 and json.loads(answer.body)["field"] == "packages"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"packages": ["", "a", "+b", "c^d"]}, 'packages[3]: "c^d"'),
        ({"packages": ["a", 5]}, "packages[1]: expected text"),
        ({"packages_versions": {"vim": "1", "b^d": "2"}}, 'packages_versions: "b^d"'),
        ({"packages_versions": {"vim": "1", "tmux": "2 3"}}, 'packages_versions["tmux"]: "2 3"'),
        ({"packages_versions": {"vim": "1", "tmux": None}}, 'packages_versions["tmux"]: expected text'),
        ({"repositories": {"a": "https://x.org", "b c": "https://x.org"}}, 'repositories: "b c"'),
        ({"repositories": {"a": "https://x.org", "b": "ftp://x"}}, 'repositories["b"]: "ftp://x"'),
        ({"repositories": {"a": 5}}, 'repositories["a"]: expected text'),
        ({"repository_keys": ["fine", "\u0007"]}, 'repository_keys[1]: "\\u0007"'),
        ({"packages": ["x" * 5000]}, 'packages[0]: "xxxx'),
    ],
)
def test_every_list_and_map_names_its_entry(changes: dict[str, object], place: str) -> None:
    body = {"version": "25.12.0", "target": "pico/nine", "profile": "acme_widget-5", **changes}
    with pytest.raises(RequestMalformed) as caught:
        parse_request(json.dumps(body).encode())
    assert str(caught.value).startswith(place) and len(str(caught.value)) < 300
    assert caught.value.field == next(iter(changes))


def test_upstreams_name_that_does_not_resolve_is_one_plain_sentence() -> None:
    """Case 19: one plain sentence without host, exception or module names; details in the log and for a
    token with *read*."""
    error = UpstreamUnavailable(SECRET, retry_after=7)
    told = json.loads(answer_error(error).body)
    assert not any(
        word in told["detail"] for word in ("mirror", "Pool", "Error", "urllib3", "Caused", "http")
    )
    assert (told["code"], told["side"]) == ("upstream_unavailable", "infrastructure")
    assert json.loads(answer_error(error, details=True).body)["detail"] == SECRET


def test_errors_carry_code_side_and_field() -> None:
    rejected = json.loads(answer_error(RequestRejected("no", field="version")).body)
    assert (rejected["code"], rejected["side"], rejected["field"]) == ("request_rejected", "user", "version")
    full = json.loads(answer_error(QueueFull(9, 30)).body)
    assert (full["code"], full["side"]) == ("queue_full", "infrastructure") and "field" not in full
    contract = json.loads(answer_error(BuildNotFound("could not find provided request hash")).body)
    assert contract.keys() == {"status", "title", "detail"}


def test_health_for_everybody_names_no_path_and_no_remedy() -> None:
    engine = CheckResult(
        "error", "No Podman at unix:///run/user/1000/podman.sock: systemctl start podman.socket"
    )
    fine = CheckResult("ok", "SQLite 3.46 at /var/lib/x.")
    health = Health({"engine": lambda: engine, "store": lambda: fine, "database": lambda: fine})
    health.check_all()
    told = " ".join(result.sentence for result in health.report().for_everybody().parts.values())
    assert "/" not in told and "systemctl" not in told and "The container engine does not work now" in told
    assert health.hindrance() == "engine"
    assert str(EngineUnavailable(engine.sentence)) != EngineUnavailable(engine.sentence).public


def test_builds_that_cannot_run_say_what_they_wait_for() -> None:
    fine = CheckResult("ok", "Fine.")
    checks = {"engine": lambda: fine, "store": lambda: fine, "database": lambda: fine}
    assert Health(checks).hindrance() == ""
    full = Health(checks, has_room=lambda: False)
    full.check_all()
    assert full.hindrance() == "disk_full"


def test_a_stored_failure_of_an_older_version_has_its_reasons_side() -> None:
    import msgspec

    old = b'{"reason":"too_big","detail":"Error: x","stdout":"","stderr":"","build_cmd":[],"attempts":[]}'
    failure = msgspec.json.decode(old, type=BuildFailure)
    assert failure.side is Side.USER and failure.problem == BuildProblem() and failure.field == ""
    new = BuildFailure(FailureReason.NO_IMAGES, "x", blamed=Side.USER, problem=BuildProblem(full=True))
    assert msgspec.json.decode(msgspec.json.encode(new), type=BuildFailure) == new
