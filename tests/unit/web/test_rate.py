from asu_builder.web.rate import RateLimit


class Seconds:
    """A clock that is moved by hand."""

    at = 0.0

    def __call__(self) -> float:
        return self.at


def test_a_burst_is_allowed_and_then_one_by_one() -> None:
    clock = Seconds()
    limit = RateLimit(60, burst=3, clock=clock)
    assert [limit.wait("a") for _ in range(4)] == [0, 0, 0, 1]
    clock.at += 1
    assert [limit.wait("a") for _ in range(2)] == [0, 1]


def test_addresses_do_not_share_their_allowance() -> None:
    limit = RateLimit(60, burst=1, clock=Seconds())
    assert [limit.wait("a"), limit.wait("b"), limit.wait("a")] == [0, 0, 1]


def test_a_slow_limit_says_how_long_to_wait() -> None:
    limit = RateLimit(2, burst=1, clock=Seconds())
    assert [limit.wait("a"), limit.wait("a")] == [0, 30]


def test_many_addresses_do_not_take_memory_without_end() -> None:
    limit = RateLimit(60, burst=1, clock=Seconds())
    for number in range(10_001):
        limit.wait(str(number))
    assert limit.wait("0") == 0, "the longest unseen was forgotten"
    assert limit.wait("10000") == 1
