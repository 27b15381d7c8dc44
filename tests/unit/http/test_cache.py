"""LruByteCache keeps to its bytes."""

from asu_builder.http.answer_cache import LruByteCache


def test_the_longest_unused_goes_first_when_the_bytes_are_full() -> None:
    memory: LruByteCache[str, int] = LruByteCache(budget=100, largest=100)
    memory.put("a", 1, 40)
    memory.put("b", 2, 40)
    memory.get("a")
    memory.put("c", 3, 40)
    assert (memory.get("a"), memory.get("b"), memory.get("c")) == (1, None, 3)
    assert memory.size == 80


def test_a_new_value_takes_the_place_and_the_bytes_of_the_former_one() -> None:
    memory: LruByteCache[str, int] = LruByteCache(budget=100, largest=100)
    memory.put("a", 1, 60)
    memory.put("a", 2, 70)
    assert memory.get("a") == 2
    assert memory.size == 70


def test_what_is_too_large_is_not_kept_and_its_former_value_neither() -> None:
    memory: LruByteCache[str, int] = LruByteCache(budget=100, largest=50)
    memory.put("a", 1, 10)
    memory.put("a", 2, 51)
    assert memory.get("a") is None
    assert memory.size == 0


def test_a_dropped_value_gives_its_bytes_back() -> None:
    memory: LruByteCache[str, int] = LruByteCache(budget=100, largest=100)
    memory.put("a", 1, 60)
    memory.drop("a")
    memory.drop("a")
    assert memory.size == 0


def test_ten_thousand_values_stay_within_the_budget() -> None:
    memory: LruByteCache[int, bytes] = LruByteCache(budget=10_000, largest=5_000)
    for number in range(10_000):
        memory.put(number, b"", number % 6_000)
        assert memory.size <= 10_000


def test_what_is_older_than_its_time_goes_when_others_come() -> None:
    at = [0.0]
    memory: LruByteCache[str, int] = LruByteCache(budget=100, largest=100, seconds=5.0, clock=lambda: at[0])
    memory.put("a", 1, 10)
    at[0] = 4.0
    memory.put("b", 2, 10)
    at[0] = 5.5
    memory.put("c", 3, 10)
    assert (memory.get("a"), memory.get("b"), memory.get("c")) == (None, 2, 3)
    assert memory.size == 20


def test_ten_thousand_values_that_are_not_used_again_leave_no_more_than_the_latest() -> None:
    at = [0.0]
    memory: LruByteCache[int, int] = LruByteCache(
        budget=1_000_000, largest=100, seconds=5.0, clock=lambda: at[0]
    )
    for number in range(10_000):
        at[0] += 0.1
        memory.put(number, number, 10)
        assert memory.size <= 520
