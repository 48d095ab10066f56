"""Fills a server with records of jobs, fast: one job goes through the real acts, the others are copies of it.

A copy has the same hash under another id, some milliseconds older, stands in each index that the first one stands in,
and has left the same events in the stream. Which these are is looked up in Redis, so that a new index is not forgotten.
"""

import json
from typing import Any, cast

from benchmarks.finished_job import finish_one
from cl_ml_tools.stores.redis_jobs import RedisJobStore

CHUNK = 1000
"""How many copies one script makes."""

_COPY = """
local source, first, count, indexes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local root, fields = ARGV[5], {'created_at', 'started_at', 'finished_at'}
local times = redis.call('HMGET', root .. source, unpack(fields))
for number = first, first + count - 1 do
  local id = string.format('%08x-0000-4000-8000-%012x', number, number)
  redis.call('COPY', root .. source, root .. id)
  for i, field in ipairs(fields) do
    redis.call('HSET', root .. id, field, string.format('%.0f', times[i] - number))
  end
  for i = 0, indexes - 1 do
    redis.call('ZADD', ARGV[8 + 2 * i], ARGV[9 + 2 * i] - number, id)
  end
  for _, event in ipairs(cjson.decode(ARGV[7])) do
    for i, value in ipairs(event) do
      if value == source then event[i] = id end
    end
    redis.call('XADD', ARGV[6], 'MAXLEN', '~', 100000, '*', unpack(event))
  end
end
"""


class RecordLoader:
    """Adds copies of a finished job to a store."""

    def __init__(self, store: RedisJobStore) -> None:
        self._store = store
        self._loaded = 0
        self._source = finish_one(store)
        client = store.client
        self._indexes: list[str | float] = []
        for key in client.scan_iter(f"{store.keys.root}*", _type="zset"):
            score = client.zscore(key, self._source)
            if score is not None:
                self._indexes += [key, score]
        entries = cast("list[tuple[str, dict[str, str]]]", client.xrange(store.keys("events")))
        flat = [[part for pair in event.items() for part in pair] for _, event in entries]
        self._events = json.dumps([event for event in flat if self._source in event])
        self._script: Any = client.register_script(_COPY)

    @property
    def indexes(self) -> int:
        """In how many indexes each job stands."""
        return len(self._indexes) // 2

    def load(self, count: int) -> None:
        """Add so many."""
        for begin in range(0, count, CHUNK):
            number = min(CHUNK, count - begin)
            keys = self._store.keys
            head = [
                self._source,
                self._loaded + 1,
                number,
                self.indexes,
                keys("job"),
                keys("events"),
                self._events,
            ]
            self._script(args=[*head, *self._indexes])
            self._loaded += number

    def any_id(self, number: int) -> str:
        """The id of one that was loaded, for any number."""
        number = 1 + number % self._loaded
        return f"{number:08x}-0000-4000-8000-{number:012x}"


def used_memory(store: RedisJobStore) -> int:
    """Bytes that the server has given out, without those of the events, which are not kept for ever."""
    info: Any = store.client.info("memory")
    events: Any = store.client.memory_usage(store.keys("events"), samples=0)
    return int(info["used_memory"]) - int(events or 0)
