"""One provider under supervision: started, watched, restarted and stopped, with what is known about it."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import logging
import signal
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from lattice import events, subjects
from lattice.errors import Code, LatticeError, MalformedMessage, Unreachable
from lattice.links import LinkDefinition
from lattice.transport import State, Transport
from lattice.wire import pack
from wasmhost.health import Condition, HealthReply, LinkStatus
from wasmhost.log_lines import read_log_line
from wasmhost.process import ChildProcess, describe_exit
from wasmhost.provider_image import ProviderImage

log = structlog.get_logger(__name__)

_KEPT_LINES: Final = 50
_READY_POLL: Final = (0.03, 0.25)
"""First and longest pause between the questions whether a new process is ready, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Durations of supervision, in seconds. The intervals of health checks are those of classic hosts."""

    health_interval: float = 30.0
    trouble_interval: float = 1.0
    """Between health checks while something is wrong, so that a recovery shows soon."""
    health_timeout: float = 2.0
    start_timeout: float = 30.0
    """Silence after which a new process is reported as failing to start; it may still come."""
    link_timeout: float = 2.0
    """How long a provider may take to say that a link is ready or failed."""
    shutdown_delay: float = 0.3
    """Between the answer to the shutdown request and SIGTERM."""
    terminate_grace: float = 2.0
    """Between SIGTERM and SIGKILL."""
    backoff: tuple[float, float] = (0.5, 30.0)
    stable_after: float = 60.0
    """A process that lived this long starts again with the shortest pause."""
    hung_after: float = 15.0
    """Silence of a process, while this host itself is connected, after which it is restarted."""


class Publish(Protocol):
    """Publishes one lattice event; never raises, never waits."""

    def __call__(self, name: str, data: Mapping[str, Any], /) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every provider of a host shares."""

    transport: Transport
    lattice: str
    host_id: str
    publish: Publish
    links_of: Callable[[str, str], Sequence[LinkDefinition]]
    """The current links of a provider key and link name."""
    host_data: Callable[[SupervisedProvider], bytes]
    """The line for its standard input, made anew for each start."""
    environment: Callable[[Path], Mapping[str, str]]
    folder: Path
    """Where providers get their private work folders."""
    timing: Timing = field(default_factory=Timing)


class SupervisedProvider:
    """A provider key and link name on this host; at most one process at a time."""

    def __init__(
        self,
        image: ProviderImage,
        *,
        link_name: str,
        configuration: str,
        annotations: Mapping[str, str],
        surroundings: Surroundings,
    ) -> None:
        self.image = image
        self.link_name = link_name
        self.configuration = configuration
        self.annotations = dict(annotations)
        self.instance_id = ""
        self.condition = Condition.STARTING
        self.error = ""
        """Why the condition is what it is; empty when ready."""
        self.restarts = 0
        self.links: dict[str, LinkStatus] = {}
        """By actor key, as far as known."""
        self.last_lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._around = surroundings
        self._timing = surroundings.timing
        self._process: ChildProcess | None = None
        self._answered = False
        self._ever_answered = False
        self._killed = False
        self._complaint = ""
        """The last thing that the process said which may explain its end."""
        self._healthy = False
        self._unhealthy_reason = ""
        self._check_now = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._log = log.bind(provider=image.name, provider_id=image.public_key, link_name=link_name)

    @property
    def key(self) -> tuple[str, str]:
        return self.image.public_key, self.link_name

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.running else None

    @property
    def running(self) -> bool:
        """A process of it has answered and has not ended."""
        return self._answered and self.pid is not None

    def start(self) -> None:
        self._life = asyncio.create_task(self._live(), name=f"provider {self.image.name} {self.link_name}")

    @property
    def failed_to_start(self) -> bool:
        """No process of it ever answered, and the last one has ended."""
        return not self._ever_answered and self.condition is Condition.FAILED

    async def stop(self, *, quietly: bool = False) -> None:
        """Ask it to shut down, then make it; publishes ``provider_stopped`` unless ``quietly``."""
        process = self._process
        life, self._life = self._life, None
        self._answered = False
        if life is not None and process is not None and process.running:
            ending = asyncio.create_task(process.wait())
            await self._request_shutdown()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ending, self._timing.shutdown_delay)
            if process.running:
                await process.terminate(grace=self._timing.terminate_grace)
        if life is not None:
            life.cancel()
            await asyncio.wait({life})
        if not quietly:
            self._publish(events.provider_stopped, **self._instance(), reason="stop")
        self._log.info("provider.stopped")

    async def put_link(self, link: LinkDefinition) -> LinkStatus | None:
        """Tell it of a link and wait, within the link timeout, for how that went.

        None when it did not say: it is not up (it will get the link when it is), or it is a classic provider.
        """
        self.links.setdefault(link.actor_id, LinkStatus(Condition.STARTING))
        if not self._answered:
            return None
        status = await request_link(self._around.transport, self._around.lattice, link, self._timing.link_timeout)
        if status is not None and link.actor_id in self.links:  # it may have been deleted meanwhile
            self.links[link.actor_id] = status
        elif not self.image.ours and link.actor_id in self.links:
            self.links[link.actor_id] = LinkStatus(Condition.READY)  # classic: silence is all it ever says
        self._check_now.set()
        return status

    def delete_link(self, actor_id: str) -> None:
        """Forget a link; the message to the provider itself goes to all providers of that key."""
        self.links.pop(actor_id, None)
        self._check_now.set()

    async def _live(self) -> None:
        """Run the process again and again until cancelled."""
        shortest, longest = self._timing.backoff
        pause = shortest
        while True:
            begun = asyncio.get_running_loop().time()
            try:
                reason = await self._run_once()
            except LatticeError as error:
                reason = str(error)
            except Exception as error:
                self._log.exception("provider.supervision_failed")
                reason = f"internal error: {error}"
            if self._life is None:
                return  # stopped on purpose, which stop() tells
            self._note_death(reason)
            await self._abandon_calls(reason)
            if asyncio.get_running_loop().time() - begun > self._timing.stable_after:
                pause = shortest
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)
            self.restarts += 1

    def _note_death(self, reason: str) -> None:
        was_up = self._answered
        self._answered, self._healthy = False, False
        # One that has worked, or that somebody killed, is on its way back; one that ended by itself before it ever
        # answered has yet to show that it can work at all.
        coming_back = was_up or self._killed
        self.condition, self.error = Condition.STARTING if coming_back else Condition.FAILED, reason
        self.links = {actor: LinkStatus(self.condition, reason) for actor in self.links}
        self._log.warning("provider.died", reason=reason, restarts=self.restarts)
        if coming_back:
            self._publish(events.provider_stopped, **self._instance(), reason=reason)
        else:
            self._publish_start_failure(reason)

    async def _abandon_calls(self, reason: str) -> None:
        """Let calls in flight fail now rather than by their deadline, unless another host runs this provider, too."""
        around = self._around
        health = subjects.health(around.lattice, *self.key)
        for _ in range(3):  # the server may notice the death a little later than we do
            try:
                await around.transport.request(health, b"", timeout=0.2)
                return
            except Unreachable as error:
                if error.code is Code.NO_RESPONDERS:
                    calls = subjects.provider_rpc(around.lattice, *self.key)
                    around.transport.abandon(calls, f"its provider has ended ({reason})")
                    return

    async def _run_once(self) -> str:
        """Start one process and watch it to its end; why it ended."""
        self.instance_id = str(uuid.uuid4())
        self._answered = self._killed = False
        self._complaint = ""
        self.links = {
            link.actor_id: LinkStatus(Condition.STARTING)
            for link in self._around.links_of(self.image.public_key, self.link_name)
        }
        folder = self._around.folder / f"{self.image.public_key}-{self.link_name}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            process = await ChildProcess.spawn(
                self.image.command,
                environment=self._around.environment(folder),
                folder=folder,
                first_line=self._around.host_data(self),
                on_line=self._on_line,
                dies_with_parent=not self.image.ours,
            )
        except OSError as error:
            return f"cannot start {self.image.command[0]}: {error.strerror or error}"
        self._process = process
        self._log.info("provider.spawned", pid=process.pid, restarts=self.restarts)
        watching = asyncio.create_task(self._watch(process), name=f"health of {self.image.name}")
        try:
            code = await process.wait()
            self._killed = code in (-signal.SIGKILL, -signal.SIGTERM)
            last_words = f": {self._complaint}" if self._complaint and not self._killed else ""
            return describe_exit(code) + last_words
        finally:
            watching.cancel()
            await process.kill()  # of its group, whatever is left
            await asyncio.wait({watching})

    async def _watch(self, process: ChildProcess) -> None:
        """Wait until the process answers, then ask for its health again and again. Cancelled when it ends."""
        try:
            await self._wait_ready()
            loop = asyncio.get_running_loop()
            heard = loop.time()
            while True:
                if await self._check_health() or self._around.transport.state is not State.CONNECTED:
                    heard = loop.time()
                elif loop.time() - heard > self._timing.hung_after:
                    self._log.warning("provider.hung", silent_s=round(loop.time() - heard, 1))
                    await process.kill()
                    return
                calm = self._healthy and all(link.state is Condition.READY for link in self.links.values())
                await self._pause(self._timing.health_interval if calm else self._timing.trouble_interval)
        except asyncio.CancelledError:
            raise
        except Exception:
            self._log.exception("provider.watch_failed")
            await process.kill()  # supervision without eyes is none; the restart begins anew

    async def _wait_ready(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timing.start_timeout
        reported = False
        pause, longest = _READY_POLL
        while not await self._ask_health():
            if not reported and loop.time() > deadline:
                reported = True
                self.condition = Condition.DEGRADED
                self.error = f"no answer to health checks for {self._timing.start_timeout:g} s after its start"
                self._publish_start_failure(self.error)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, longest)
        self._answered = self._ever_answered = True
        self.condition, self.error = Condition.READY, ""
        self._publish(
            events.provider_started,
            **self._instance(),
            image_ref=self.image.reference,
            claims=self.image.claims.event_document(),
        )
        self._log.info("provider.ready")
        # A provider hears of links only once it is subscribed: what was put since its host data were written is sent
        # again, and what it already knows it ignores.
        links = self._around.links_of(self.image.public_key, self.link_name)
        await asyncio.gather(*(self.put_link(link) for link in links))

    async def _ask_health(self) -> HealthReply | None:
        """One question; None when this very process did not answer."""
        subject = subjects.health(self._around.lattice, self.image.public_key, self.link_name)
        # Every process of this provider in the lattice hears the question; ours keep silent when not meant.
        question = pack({"placeholder": True, "instance_id": self.instance_id})
        try:
            reply = await self._around.transport.request(subject, question, timeout=self._timing.health_timeout)
            health = HealthReply.decode(reply.payload)
        except Unreachable:
            return None
        except MalformedMessage as error:
            self._log.warning("provider.health_malformed", error=str(error))
            return HealthReply(healthy=True)  # a classic host, too, counts any answer as a sign of life
        if health.instance_id and health.instance_id != self.instance_id:
            return None
        return health

    async def _check_health(self) -> bool:
        """Ask, note the answer, publish what changed; False when there was no answer."""
        health = await self._ask_health()
        if health is None:
            connected = self._around.transport.state is State.CONNECTED
            self.condition = Condition.DEGRADED
            self.error = "does not answer health checks" if connected else "the host has no connection to NATS"
            self._publish_health(self.error)
            return False
        if health.links is not None:
            known = {link.actor_id for link in self._around.links_of(self.image.public_key, self.link_name)}
            self.links = {actor: health.links.get(actor, LinkStatus(Condition.STARTING)) for actor in known}
        states = {link.state for link in self.links.values()}
        self.error = health.failure
        if not health.failure:
            self.condition = Condition.READY
        elif states == {Condition.FAILED}:
            self.condition = Condition.FAILED
        else:
            self.condition = Condition.DEGRADED
        self._publish_health(health.failure)
        return True

    def _publish_health(self, failure: str) -> None:
        """``passed`` and ``failed`` on a change (or another reason); ``status`` in the slow rhythm only."""
        was_healthy, self._healthy = self._healthy, not failure
        if failure:
            if was_healthy or failure != self._unhealthy_reason:
                self._publish(events.health_check_failed, error=failure)
                self._log.warning("provider.unhealthy", reason=failure)
        elif not was_healthy:
            self._publish(events.health_check_passed)
        else:
            self._publish(events.health_check_status)
        self._unhealthy_reason = failure

    async def _pause(self, seconds: float) -> None:
        self._check_now.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._check_now.wait(), seconds)

    async def _request_shutdown(self) -> None:
        subject = subjects.shutdown(self._around.lattice, self.image.public_key, self.link_name)
        body = json.dumps({"host_id": self._around.host_id}).encode()
        try:
            await self._around.transport.request(subject, body, timeout=self._timing.health_timeout)
        except LatticeError as error:
            if not (isinstance(error, Unreachable) and error.code is Code.NO_RESPONDERS):
                self._log.info("provider.shutdown_unanswered", error=str(error))

    def _publish(self, build: Callable[..., events.Built], **members: Any) -> None:
        self._around.publish(
            *build(
                public_key=self.image.public_key,
                link_name=self.link_name,
                contract_id=self.image.contract_id,
                **members,
            )
        )

    def _instance(self) -> dict[str, Any]:
        return {
            "instance_id": self.instance_id,
            "annotations": self.annotations,
            "host_id": self._around.host_id,
        }

    def _publish_start_failure(self, reason: str) -> None:
        self._around.publish(
            *events.provider_start_failed(provider_ref=self.image.reference, link_name=self.link_name, error=reason)
        )

    def _on_line(self, line: str) -> None:
        """Log one line of its output; ours are JSON, others anything."""
        level, text, fields = read_log_line(line)
        reason = fields.get("reason")
        said = f"{text}: {reason}" if isinstance(reason, str) else text
        self.last_lines.append(said)
        if level >= logging.WARNING or text is line:
            self._complaint = said
        self._log.log(level, "provider.log", text=text, **fields)


async def request_link(transport: Transport, lattice: str, link: LinkDefinition, timeout: float) -> LinkStatus | None:
    """Send a link to its provider, wherever that runs; None when nobody said how it went within ``timeout``."""
    subject = subjects.linkdef_put(lattice, link.provider_id, link.link_name)
    try:
        reply = await transport.request(subject, link.encode(), timeout=timeout)
        return LinkStatus.decode(reply.payload)
    except Unreachable:
        return None
    except MalformedMessage as error:
        log.warning("link.answer_malformed", provider=link.provider_id, error=str(error))
        return None
