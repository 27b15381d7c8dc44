import pytest

from asu_builder.domain.make import MAX_LINE, Lines


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"Building images...", "Building images..."),
        (b"ends as Windows does\r", "ends as Windows does"),
        (b"  10%\r  50%\r 100%", " 100%"),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07and\x1b(B plain", "red and plain"),
        (b"a\tb\x00\x07\x7fc", "a bc"),
        (b"\xff\xfe caf\xc3\xa9 \xc2\x85", "\ufffd\ufffd café "),
        ("left \u202egnitirw\u2066\u2028".encode(), "left gnitirw"),
        (b"", ""),
    ],
)
def test_a_line_is_text_and_nothing_else(raw: bytes, text: str) -> None:
    assert list(Lines().feed(1, raw + b"\n")) == [text]
    lines = Lines()
    assert list(lines.feed(1, raw)) == []
    assert list(lines.end()) == ([text] if raw else [])


def test_a_long_line_is_cut() -> None:
    cut, whole = Lines().feed(1, b"x" * 10_000 + b"\n" + b"x" * MAX_LINE + b"\n")
    assert len(cut) == MAX_LINE
    assert cut.endswith("x […]")
    assert whole == "x" * MAX_LINE


def test_lines_are_put_together_from_pieces_and_streams_kept_apart() -> None:
    lines = Lines()
    assert list(lines.feed(1, b"one\ntw")) == ["one"]
    assert list(lines.feed(2, b"err")) == []
    assert list(lines.feed(1, b"o\n\n")) == ["two", ""]
    assert list(lines.feed(2, b"or\nlast")) == ["error"]
    assert list(lines.end()) == ["last"]
    assert list(lines.end()) == []


def test_a_character_that_two_pieces_share_is_whole() -> None:
    lines = Lines()
    assert list(lines.feed(1, "é".encode()[:1])) == []
    assert list(lines.feed(1, "é".encode()[1:] + b"\n")) == ["é"]


def test_a_line_without_an_end_takes_no_memory() -> None:
    lines = Lines()
    for _ in range(100):
        assert list(lines.feed(1, b"x" * 65536)) == []
    assert sum(len(rest) for rest in lines._begun.values()) <= 4 * MAX_LINE
    (text,) = lines.feed(1, b"\n")
    assert len(text) == MAX_LINE
