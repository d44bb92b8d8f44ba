"""``python -m providers.keyvalue.jetstream``: started by a host."""

from providers.keyvalue.jetstream.provider import JetStreamKeyValue
from providers.runtime import run

run(JetStreamKeyValue)
