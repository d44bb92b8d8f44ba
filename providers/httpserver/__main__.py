"""``python -m providers.httpserver``: started by a host."""

from providers.httpserver.provider import HttpServer
from providers.runtime import run

run(HttpServer)
