import threading

from asu_builder.doctor.report import CHECKS, NAMES, Check, examine, is_healthy
from asu_builder.doctor.scene import Scene
from asu_builder.domain.check_result import Finding, Grade, doubtful, well, worst, wrong
from asu_builder.settings.reading import survey_settings
from factories import sooner_than


def a_scene() -> Scene:
    return Scene(survey_settings({}, ()), environment={})


def test_findings_come_in_the_order_of_the_checks_whoever_is_first() -> None:
    second_has_run = threading.Event()

    def first(_: Scene) -> Finding:
        assert second_has_run.wait(60)
        return well("first")

    def second(_: Scene) -> Finding:
        second_has_run.set()
        return well("second")

    found = list(examine(a_scene(), (Check("a", "one", first), Check("b", "two", second))))
    assert [(finding.name, finding.group, finding.sentence) for finding in found] == [
        ("a", "one", "first"),
        ("b", "two", "second"),
    ]


def test_a_check_that_hangs_costs_its_deadline_and_says_what_to_do() -> None:
    def hangs(_: Scene) -> Finding:
        threading.Event().wait(60)
        return well("late")

    checks = (Check("hung", "", hangs, 0.2, "Restart it."), Check("well", "", lambda _: well("here")))
    with sooner_than(30):
        hung, healthy = examine(a_scene(), checks)
    assert (hung.grade, hung.remedy) == (Grade.WRONG, "Restart it.")
    assert healthy.sentence == "here"


def test_a_check_that_breaks_hides_no_other() -> None:
    def breaks(_: Scene) -> Finding:
        raise ZeroDivisionError("oh")

    broken, healthy = examine(a_scene(), (Check("a", "", breaks), Check("b", "", lambda _: well("here"))))
    assert "ZeroDivisionError: oh" in broken.sentence and broken.remedy
    assert healthy.grade == Grade.OK


def test_what_is_doubtful_is_healthy_and_what_is_wrong_is_not() -> None:
    assert is_healthy([well("a"), doubtful("b", "c")])
    assert not is_healthy([well("a"), wrong("b", "c")])
    assert worst([well("a"), wrong("b", "c"), doubtful("d", "e"), wrong("f", "g")]).sentence == "b"


def test_every_check_ends_within_twenty_seconds_and_has_a_name_of_its_own() -> None:
    assert all(check.seconds < 20 for check in CHECKS)
    assert len(set(NAMES)) == len(NAMES)
