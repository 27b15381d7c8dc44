import pytest

from asu_builder.doctor.scene import in_words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (("127.0.0.1", 8080), "http://127.0.0.1:8080"),
        (("::1", 8080, 0, 0), "http://[::1]:8080"),
        ("/run/asu-builder.sock", "/run/asu-builder.sock"),
    ],
)
def test_the_banner_names_the_socket_that_is_listened_at(name: object, words: str) -> None:
    assert in_words(name) == words
