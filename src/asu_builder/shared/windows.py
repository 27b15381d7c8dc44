"""Rate limits that all nodes count together."""

import os
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from asu_builder.domain.access import Rate
from asu_builder.ports import RateWindows
from asu_builder.shared.redis import RedisFailed, SharedRedis

_MOST_NODES = 1000
# The server's clock counts, so the clocks of nodes need not agree. What another program has put under our
# names, or what lies in the future, goes: it would refuse a caller for ever.
_ADMIT = """
local time = redis.call('TIME')
local now = ARGV[2] ~= '' and tonumber(ARGV[2]) or time[1] * 1000000 + time[2]
local function text(number) return string.format('%.0f', number) end
for _, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', key) end
  redis.call('ZREMRANGEBYSCORE', key, '(' .. text(now), '+inf')
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(now - 60000000))
redis.call('ZADD', KEYS[2], text(now), ARGV[1])
redis.call('EXPIRE', KEYS[2], 120)
local longest, full, wait = 0, 0, -1
for place = 3, #ARGV, 2 do longest = math.max(longest, ARGV[place + 1] * 1000000) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now - longest))
for place = 3, #ARGV, 2 do
  local amount, window = tonumber(ARGV[place]), ARGV[place + 1] * 1000000
  if redis.call('ZCOUNT', KEYS[1], '(' .. text(now - window), '+inf') >= amount then
    local left = window
    if amount > 0 then
      left = redis.call('ZREVRANGE', KEYS[1], amount - 1, amount - 1, 'WITHSCORES')[2] + window - now
    end
    if left > wait then full, wait = (place - 1) / 2, left end
  end
end
if full == 0 then
  redis.call('ZADD', KEYS[1], text(now), text(now) .. ':' .. redis.call('ZCARD', KEYS[1]) .. ':' .. ARGV[1])
  redis.call('PEXPIRE', KEYS[1], text(longest / 1000))
end
return {redis.call('ZCARD', KEYS[2]), full, text(math.max(wait, 0))}
"""
_TAKE_BACK = """
if redis.call('TYPE', KEYS[1]).ok == 'zset' then redis.call('ZPOPMAX', KEYS[1], ARGV[1]) end
return 1
"""


class SharedWindows:
    """Fulfils `RateWindows` for all nodes on one Redis; while it is away each counts its share alone."""

    def __init__(
        self,
        redis: SharedRedis,
        name: str,
        own: RateWindows,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`name` is what is limited; `own` counts in this process.

        `clock` stands in for the server's, in tests.
        """
        self._redis = redis
        self._name = name
        self._own = own
        self._clock = clock
        self._node = os.urandom(8).hex()
        self._nodes = 1
        """How many asked within the last minute, when that was told last."""

    def admit(self, key: str, rates: Sequence[Rate]) -> tuple[Rate, float] | None:
        if self._redis.is_usable():
            try:
                return self._admit_together(key, rates)
            except RedisFailed:
                pass
        shares = [replace(rate, amount=-(-rate.amount // self._nodes)) for rate in rates]
        full = self._own.admit(key, shares)
        return None if full is None else (rates[shares.index(full[0])], full[1])

    def take_back(self, key: str, amount: int) -> None:
        # If it was counted on the other side, that side counts a few too many for a while.
        if self._redis.is_usable():
            try:
                self._redis.run(_TAKE_BACK, [f"limit:{self._name}:{key}"], [amount])
                self._redis.worked()
                return
            except RedisFailed:
                pass
        self._own.take_back(key, amount)

    def _admit_together(self, key: str, rates: Sequence[Rate]) -> tuple[Rate, float] | None:
        now = "" if self._clock is None else str(int(self._clock() * 1_000_000))
        bounds = [number for rate in rates for number in (rate.amount, rate.seconds)]
        keys = [f"limit:{self._name}:{key}", f"nodes:{self._name}"]
        answer = self._redis.run(_ADMIT, keys, [self._node, now, *bounds])
        try:
            nodes, full, micros = map(int, answer)
        except (TypeError, ValueError):
            nodes, full, micros = 0, 0, 0
        longest = rates[full - 1].seconds if 0 < full <= len(rates) else 0
        if not (1 <= nodes <= _MOST_NODES and 0 <= full <= len(rates) and 0 <= micros <= longest * 1_000_000):
            raise self._redis.distrust()
        self._redis.worked()
        self._nodes = nodes
        return (rates[full - 1], micros / 1_000_000) if full else None
