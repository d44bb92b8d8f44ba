"""``python -m providers.keyvalue.memory``: started by a host."""

from providers.keyvalue.memory.provider import MemoryKeyValue
from providers.runtime import run

run(MemoryKeyValue)
