"""``python -m providers.keyvalue.redis``: started by a host."""

from providers.keyvalue.redis.provider import RedisKeyValue
from providers.runtime import run

run(RedisKeyValue)
