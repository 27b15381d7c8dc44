"""What is shown of a build's way out: nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from asu_builder.engines.way_out import Restored, WayOut

WORDS = {b"http://a.example:443/": b"https://a.example/", b"127.0.0.1:3128": b"the proxy"}


@given(some.lists(some.sampled_from([*WORDS, b"http://a.example:4", b"127.0", b"x", b"\n"])), some.data())
def test_addresses_are_restored_wherever_the_output_is_cut(parts: list[bytes], data: some.DataObject) -> None:
    text = b"".join(parts)
    shown: list[bytes] = []
    restored = Restored(shown.append, WORDS)
    rest = text
    while rest:
        cut = data.draw(some.integers(1, len(rest)))
        restored.write(rest[:cut])
        rest = rest[cut:]
    restored.end()
    expected = text
    for word, instead in WORDS.items():
        expected = expected.replace(word, instead)
    assert b"".join(shown) == expected


def test_what_cannot_be_half_a_word_is_shown_at_once() -> None:
    shown: list[bytes] = []
    restored = Restored(shown.append, WORDS)
    restored.write(b"a line\nhttp:")
    assert shown == [b"a line\n"]
    restored.write(b"//b.example/\n")
    assert shown[1:] == [b"http://b.example/\n"]


@pytest.mark.parametrize("chunk", [b"", b"x", b"http://a.example:443/"])
def test_without_a_proxy_nothing_is_changed(chunk: bytes) -> None:
    shown: list[bytes] = []
    way_out = WayOut(None)
    restored = way_out.restore(shown.append)
    restored.write(chunk)
    restored.end()
    assert shown == [chunk]
    assert way_out.wrap(["make"]) == ["make"]
    assert way_out.variables == {}
    assert not way_out.is_proxied
