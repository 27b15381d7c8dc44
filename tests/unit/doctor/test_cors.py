import pytest

from asu_builder.doctor.network import ORIGIN, judge_cors
from asu_builder.doctor.scene import Response

STAR = ("access-control-allow-origin", "*")
METHODS = ("access-control-allow-methods", "GET, POST")
HEADERS = ("access-control-allow-headers", "Content-Type")
GOOD = (STAR, METHODS, HEADERS)


def judged(preflight: tuple[tuple[str, str], ...], *, plain: tuple[tuple[str, str], ...] = (STAR,)) -> str:
    result = judge_cors("https://asu", Response(204, preflight, b""), Response(200, plain, b""))
    return "" if result.status == "ok" else f"{result.sentence} {result.remedy}"


def test_answers_that_a_browser_accepts_are_well() -> None:
    assert judged(GOOD) == ""
    assert judged((("access-control-allow-origin", ORIGIN), METHODS, HEADERS)) == ""


@pytest.mark.parametrize(
    ("preflight", "plain", "word"),
    [
        ((METHODS, HEADERS), (STAR,), "does not allow pages elsewhere (OPTIONS)"),
        (GOOD, (), "does not allow pages elsewhere (GET)"),
        ((STAR, STAR, METHODS, HEADERS), (STAR,), "twice (OPTIONS)"),
        (GOOD, (STAR, STAR), "twice (GET)"),
        (GOOD, (("access-control-allow-origin", "*, *"),), "twice (GET)"),
        ((("access-control-allow-origin", "https://other"), METHODS, HEADERS), (STAR,), "does not allow"),
        ((STAR, ("access-control-allow-methods", "GET"), HEADERS), (STAR,), "POST JSON"),
        ((STAR, METHODS), (STAR,), "POST JSON"),
    ],
)
def test_what_a_browser_refuses_is_named_with_the_setting(
    preflight: tuple[tuple[str, str], ...], plain: tuple[tuple[str, str], ...], word: str
) -> None:
    told = judged(preflight, plain=plain)
    assert word in told and "cors: " in told


def test_a_refused_preflight_is_the_proxys_doing() -> None:
    result = judge_cors("https://asu", Response(405, GOOD, b""), Response(200, (STAR,), b""))
    assert (result.status, "OPTIONS" in result.remedy) == ("error", True)
