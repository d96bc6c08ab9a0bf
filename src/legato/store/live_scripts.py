"""Lua scripts of the live state in Valkey: how they are called, and what they answer.

Each runs as one atomic step. Times are Valkey's own, so that the clocks of replicas do not matter.
The arithmetic is that of `store.live` in the same order, on the same doubles, so that memory and
Valkey decide alike. Arguments and answers are one MessagePack value each: exact, and a fifth of the
cost of an argument for each number.

Keys, each with an expiry: a rate is a string, the time at which it is full (it expires a minute
later: an injected clock may be behind); concurrency is a sorted set of permits by the end of their
leases; a budget is a hash (`spent`, `reserved`) and a sorted set of reservations (`PERMIT AMOUNT`)
by the end of their leases.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct, msgpack

from legato.store.live import BUDGETS, RATES, Bucket, Permit, Used, truth

PREFIX: Final = "legato:live:"

#: Seconds for which a permit is valid unless it is renewed.
LEASE_SECONDS: Final = 30.0

#: Milliseconds for which a budget's counter is kept: behind the end of its month, and without one.
_GRACE: Final = 86_400_000
_LONG: Final = 400 * 86_400_000

#: Keys of one call that loads counters, members of one that renews leases.
CHUNK: Final = 500

_SHARED: Final = """
local function text(number) return string.format('%.17g', number) end
local function number(value) return tonumber(value or 0) end
local now, permit, lease, items = unpack(cmsgpack.unpack(ARGV[1]))
if not now then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1000000
end
local function until_full(key) return math.max(0, number(redis.call('GET', key) or now) - now) end
local function set_rate(key, seconds)
  if seconds > 0 then
    redis.call('SET', key, text(now + seconds), 'PX', math.ceil(seconds * 1000) + 60000)
  else
    redis.call('DEL', key)
  end
end
local function without(reserved, amount, leases)
  if redis.call('ZCARD', leases) == 0 then return 0 end
  return math.max(0, reserved - amount)
end
local function member(amount) return permit .. ' ' .. text(amount) end
local function extend(leases) redis.call('PEXPIRE', leases, math.ceil(lease * 2000)) end
local function budget(key, leases)
  local found = redis.call('HMGET', key, 'spent', 'reserved')
  local spent, reserved = number(found[1]), number(found[2])
  local lapsed = redis.call('ZRANGEBYSCORE', leases, '-inf', text(now))
  for _, each in ipairs(lapsed) do
    redis.call('ZREM', leases, each)
    reserved = without(reserved, number(string.match(each, ' (.+)$')), leases)
  end
  if #lapsed > 0 then redis.call('HSET', key, 'reserved', text(reserved)) end
  return spent, reserved
end
"""

#: Takes from all buckets or from none. Items: sort, capacity, seconds, amount, whether it blocks,
#: milliseconds to keep a budget. Without a permit nothing is taken.
#: Answers whether all buckets allow it, and for each the fields of `Used`.
TAKE: Final = (
    _SHARED
    + """
local used, allows, key = {}, true, 1
for i, item in ipairs(items) do
  local sort, capacity, seconds, amount, blocks = unpack(item)
  local first, second = 0, 0
  if sort == 'rate' then
    first = until_full(KEYS[key])
    if first + amount * seconds / capacity - seconds > 0.000001 then allows = false end
  elseif sort == 'concurrent' then
    redis.call('ZREMRANGEBYSCORE', KEYS[key], '-inf', text(now))
    first = redis.call('ZCARD', KEYS[key])
    if first + amount > capacity then allows = false end
  else
    first, second = budget(KEYS[key], KEYS[key + 1])
    if blocks and first + second >= capacity then allows = false end
    key = key + 1
  end
  key = key + 1
  used[i] = {first, second}
end
local answer = cmsgpack.pack({allows, used})
if not (allows and permit) then return answer end
key = 1
for i, item in ipairs(items) do
  local sort, capacity, seconds, amount, blocks, keep = unpack(item)
  if sort == 'rate' then
    set_rate(KEYS[key], used[i][1] + amount * seconds / capacity)
  elseif sort == 'concurrent' then
    redis.call('ZADD', KEYS[key], text(now + lease), permit)
    extend(KEYS[key])
  else
    redis.call('HSET', KEYS[key], 'reserved', text(used[i][2] + amount))
    redis.call('PEXPIRE', KEYS[key], keep)
    key = key + 1
    redis.call('ZADD', KEYS[key], text(now + lease), member(amount))
    extend(KEYS[key])
  end
  key = key + 1
end
return answer
"""
)

#: Replaces what was reserved by the truth. Items: sort, capacity, seconds, the amount that was
#: reserved, the true amount, milliseconds to keep a budget.
#: Answers for each item what was spent before and after; 0 for what is no budget.
SETTLE: Final = (
    _SHARED
    + """
local answer, key = {}, 1
for i, item in ipairs(items) do
  local sort, capacity, seconds, amount, used, keep = unpack(item)
  local before, after = 0, 0
  if sort == 'rate' then
    set_rate(KEYS[key], until_full(KEYS[key]) + (used - amount) * seconds / capacity)
  elseif sort == 'concurrent' then
    redis.call('ZREM', KEYS[key], permit)
  else
    local reserved
    before, reserved = budget(KEYS[key], KEYS[key + 1])
    after = before + used
    if redis.call('ZREM', KEYS[key + 1], member(amount)) == 1 then
      reserved = without(reserved, amount, KEYS[key + 1])
    end
    redis.call('HSET', KEYS[key], 'spent', text(after), 'reserved', text(reserved))
    redis.call('PEXPIRE', KEYS[key], keep)
    key = key + 1
  end
  key = key + 1
  answer[i] = {before, after}
end
return cmsgpack.pack(answer)
"""
)

#: Renews leases in one set, which is the last key; the key before it is a budget's counter. Items:
#: permit, amount. What Valkey has lost or let lapse is added again.
RENEW: Final = (
    _SHARED
    + """
local ends, leases, added = text(now + lease), KEYS[#KEYS], 0
for _, item in ipairs(items) do
  permit = item[1]
  if #KEYS == 1 then
    redis.call('ZADD', leases, ends, permit)
  elseif redis.call('ZADD', leases, ends, member(item[2])) == 1 then
    added = added + item[2]
  end
end
extend(leases)
if added > 0 then
  local reserved = number(redis.call('HGET', KEYS[1], 'reserved'))
  redis.call('HSET', KEYS[1], 'reserved', text(reserved + added))
end
return ''
"""
)

#: Raises counters of budgets, never lowers one. Items: what is known to be spent, milliseconds to
#: keep it.
RAISE: Final = (
    _SHARED
    + """
for i, item in ipairs(items) do
  local spent, keep = unpack(item)
  if spent > number(redis.call('HGET', KEYS[i], 'spent')) then
    redis.call('HSET', KEYS[i], 'spent', text(spent))
    redis.call('PEXPIRE', KEYS[i], keep)
  end
end
return ''
"""
)

SCRIPTS: Final = (TAKE, SETTLE, RENEW, RAISE)

#: A script's last argument.
_Item = tuple[str | float | bool, ...]


class Invocation(Struct, frozen=True):
    """One run of a script."""

    script: str
    keys: Sequence[str]
    argument: bytes


def _invocation(
    script: str,
    keys: Sequence[str],
    items: Sequence[_Item],
    now: float | None,
    permit: str | None = None,
    lease: float = LEASE_SECONDS,
) -> Invocation:
    # Lua's `unpack` stops at nil.
    argument = msgpack.encode((now is not None and now, permit or False, lease, items))
    return Invocation(script, keys, argument)


def take(
    buckets: Sequence[Bucket], permit: str | None, lease: float, now: float | None
) -> Invocation:
    """`permit`: None: nothing is taken. `now`: None: Valkey's time."""
    keys = [key for bucket in buckets for key in _keys(bucket)]
    items = [
        (_sort(each), each.capacity, each.seconds, each.taken, each.blocks, _keep(each))
        for each in buckets
    ]
    return _invocation(TAKE, keys, items, now, permit, lease)


def taken(answer: bytes) -> tuple[bool, list[Used]]:
    """Whether all buckets allow it, and their states before."""
    allows, used = _TAKEN.decode(answer)
    return allows, [Used(*each) for each in used]


def to_settle(permit: Permit) -> list[Bucket]:
    """The buckets of which something changes when the call is settled. Tokens that were taken from
    a server's own bucket are given back to that."""
    return [
        bucket
        for bucket in permit.buckets
        if has_lease(bucket) or (bucket.kind == "tokens" and not permit.is_local)
    ]


def settle(
    permit: Permit, buckets: Sequence[Bucket], tokens: float, cost: float, now: float | None
) -> Invocation:
    keys = [key for bucket in buckets for key in _keys(bucket)]
    items = [
        (
            _sort(each),
            each.capacity,
            each.seconds,
            each.taken,
            truth(each, tokens, cost),
            _keep(each),
        )
        for each in buckets
    ]
    return _invocation(SETTLE, keys, items, now, permit.id)


def settled(answer: bytes) -> list[tuple[float, float]]:
    """What was spent before and after, for each bucket."""
    return _SETTLED.decode(answer)


def renew(permits: Sequence[Permit], lease: float, now: float | None) -> list[Invocation]:
    """One invocation for each set of leases, or for each part of a large one."""
    items: dict[tuple[str, ...], list[_Item]] = {}
    for permit in permits:
        for bucket in permit.buckets:
            if has_lease(bucket):
                items.setdefault(_keys(bucket), []).append((permit.id, bucket.taken))
    return [
        _invocation(RENEW, keys, all_items[at : at + CHUNK], now, None, lease)
        for keys, all_items in items.items()
        for at in range(0, len(all_items), CHUNK)
    ]


def raise_spent(spent: Mapping[str, float]) -> list[Invocation]:
    names = list(spent)
    return [
        _invocation(
            RAISE,
            [PREFIX + name for name in names[at : at + CHUNK]],
            [(spent[name], _LONG) for name in names[at : at + CHUNK]],
            0.0,
        )
        for at in range(0, len(names), CHUNK)
    ]


def has_lease(bucket: Bucket) -> bool:
    return bucket.kind == "concurrent" or bucket.kind in BUDGETS


_TAKEN: Final = msgpack.Decoder(tuple[bool, list[tuple[float, float]]])
_SETTLED: Final = msgpack.Decoder(list[tuple[float, float]])


def _keys(bucket: Bucket) -> tuple[str, ...]:
    key = PREFIX + bucket.name
    return (key, f"{key}:leases") if bucket.kind in BUDGETS else (key,)


def _sort(bucket: Bucket) -> str:
    if bucket.kind in RATES:
        return "rate"
    return "concurrent" if bucket.kind == "concurrent" else "budget"


def _keep(bucket: Bucket) -> int:
    """Milliseconds for which a budget's counter is kept."""
    return int(bucket.seconds * 1000) + _GRACE if bucket.seconds else _LONG
