import threading

from asu_builder.doctor.report import CHECKS, NAMES, Check, examine, is_healthy
from asu_builder.doctor.scene import Scene
from asu_builder.domain.health import CheckResult, error, ok, warning, worst
from asu_builder.settings.reading import survey_settings
from factories import sooner_than


def a_scene() -> Scene:
    return Scene(survey_settings({}, ()), environment={})


def test_results_come_in_the_order_of_the_checks_whichever_ends_first() -> None:
    second_has_run = threading.Event()

    def first(_: Scene) -> CheckResult:
        assert second_has_run.wait(60)
        return ok("first")

    def second(_: Scene) -> CheckResult:
        second_has_run.set()
        return ok("second")

    found = list(examine(a_scene(), (Check("a", "one", first), Check("b", "two", second))))
    assert [(result.name, result.group, result.sentence) for result in found] == [
        ("a", "one", "first"),
        ("b", "two", "second"),
    ]


def test_a_check_that_hangs_costs_its_deadline_and_says_what_to_do() -> None:
    def hangs(_: Scene) -> CheckResult:
        threading.Event().wait(60)
        return ok("late")

    checks = (
        Check("hung", "", hangs, 0.2, "Restart it."),
        Check("well", "", lambda _: ok("here")),
    )
    with sooner_than(30):
        hung, healthy = examine(a_scene(), checks)
    assert (hung.status, hung.remedy) == ("error", "Restart it.")
    assert healthy.sentence == "here"


def test_a_check_that_breaks_hides_no_other() -> None:
    def breaks(_: Scene) -> CheckResult:
        raise ZeroDivisionError("oh")

    broken, healthy = examine(a_scene(), (Check("a", "", breaks), Check("b", "", lambda _: ok("here"))))
    assert "ZeroDivisionError: oh" in broken.sentence and broken.remedy
    assert healthy.status == "ok"


def test_warnings_are_healthy_and_errors_are_not() -> None:
    assert is_healthy([ok("a"), warning("b", "c")])
    assert not is_healthy([ok("a"), error("b", "c")])
    assert (
        worst(
            [
                ok("a"),
                error("b", "c"),
                warning("d", "e"),
                error("f", "g"),
            ]
        ).sentence
        == "b"
    )


def test_every_check_ends_within_twenty_seconds_and_has_a_name_of_its_own() -> None:
    assert all(check.seconds < 20 for check in CHECKS)
    assert len(set(NAMES)) == len(NAMES)
