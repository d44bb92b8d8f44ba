"""``python -m providers.keyvalue``: started by a host."""

from providers.keyvalue.provider import KeyValue
from providers.runtime import run

run(KeyValue)
