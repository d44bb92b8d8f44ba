"""One provider under supervision: started, watched, restarted and stopped, with what is known about it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import uuid
from collections.abc import Collection, Mapping
from typing import Final

import structlog

from lattice import subjects
from lattice.background import begin
from lattice.errors import LatticeError
from lattice.health import Condition, HealthReply, LinkStatus
from lattice.links import LinkDefinition
from lattice.transport import State
from wasmhost.processes.process import describe_exit
from wasmhost.supervision.health_asking import Doubt, HealthAsking, Silence
from wasmhost.supervision.key_telling import KeyTeller
from wasmhost.supervision.link_telling import LET_FINISH, ClassicLinks, LinkTeller, OwnLinks, publish_removal
from wasmhost.supervision.provider_events import ProviderEvents
from wasmhost.supervision.provider_image import ProviderImage
from wasmhost.supervision.provider_output import ProviderOutput
from wasmhost.supervision.provider_process import ProviderProcess
from wasmhost.supervision.silence_meter import SilenceMeter
from wasmhost.supervision.surroundings import Surroundings

log = structlog.get_logger(__name__)

_FIRST_PATIENCE: Final = 0.2
"""Seconds that the first question to a new process of ours waits for its answer; each further one waits longer."""
_READY_POLL: Final = (0.03, 0.25)
"""First and longest pause between the questions whether a new process is ready, in seconds."""
RENEWED: Final = "started anew with new keys"
_SILENT: Final = "does not answer health checks"


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
        predecessor: str = "",
    ) -> None:
        """``predecessor``: the host from whose process of this provider it takes over, until it is up."""
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
        self._around = surroundings
        self._timing = surroundings.timing
        self._asking: HealthAsking
        """Of the present process."""
        self._process: ProviderProcess | None = None
        self._teller: LinkTeller | None = None
        """How the process is told of links, once it is up: it answered, or a classic one seems not to mean to."""
        self._predecessor = predecessor
        self._ever_up = False
        self._answered = False
        """This very process has answered a health check."""
        self._at_start: tuple[LinkDefinition, ...] = ()
        self._killed = False
        self._silence: SilenceMeter | None = None
        """Of the present process, once it is up."""
        self._events = ProviderEvents(image, link_name=link_name, annotations=annotations, surroundings=surroundings)
        self._check_now = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._gone: asyncio.Event | None = None
        """Set when a stop that was begun has ended."""
        self._keys = KeyTeller(
            ours=image.ours,
            wanted=lambda: surroundings.keys_of(*self.key),
            permits=lambda issuer: surroundings.permits(issuer, *self.key),
            ask_health=lambda: self._asking.ask(surroundings.timing.health_timeout),
            restart=self._start_anew,
        )
        self._is_up = asyncio.Event()
        self._renewing = False
        """Its process is being replaced on purpose."""
        self._log = log.bind(provider=image.name, provider_id=image.public_key, link_name=link_name)
        self._output = ProviderOutput(self._log)

    @property
    def key(self) -> tuple[str, str]:
        return self.image.public_key, self.link_name

    @property
    def last_lines(self) -> Collection[str]:
        """The last lines that its processes printed."""
        return self._output.last_lines

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.running else None

    @property
    def running(self) -> bool:
        """A process of it is up."""
        return self._teller is not None and self.pid is not None

    @property
    def stalled(self) -> str:
        """Why calls had better not be sent: its process has been silent for long, and no other one would take them."""
        silence = self._silence
        if silence is None or not silence.alone or silence.seconds < self._timing.stalled_after or not self.image.ours:
            return ""
        return f"its process {_SILENT}; it is replaced unless it does so again soon"

    @property
    def predecessor(self) -> str:
        """The host whose process the next one follows; a restart of one that was up follows nobody."""
        return "" if self._ever_up else self._predecessor

    def start(self) -> None:
        self._life = begin(self._live(), f"provider {self.image.name} {self.link_name}")

    @property
    def failed_to_start(self) -> bool:
        """No process of it was ever up, and the last one has ended."""
        return not self._ever_up and self.condition is Condition.FAILED

    async def stop(self, *, quietly: bool = False, reason: str = "stop", drain: float = 0.0) -> None:
        """Ask it to shut down, then make it; publishes ``provider_stopped`` unless ``quietly``.

        ``drain``: seconds that what is under way may take. A second stop without them ends the first one soon.
        """
        if self._gone is not None:
            if not drain:
                self._hurry.set()
            await self._gone.wait()
            return
        self._gone = asyncio.Event()
        try:
            await self._stop(quietly=quietly, reason=reason, drain=drain)
        finally:
            self._gone.set()

    async def _stop(self, *, quietly: bool, reason: str, drain: float) -> None:
        process = self._process
        self.condition, self.error = Condition.STOPPING, ""
        life, self._life = self._life, None
        up = self._teller is not None
        self._stop_telling()
        self._is_up.set()  # nobody waits any more for it to come
        if life is not None and process is not None and process.running:
            await (process.end(drain=drain, hurry=self._hurry) if up else process.terminate())
        if life is not None:
            life.cancel()
            await asyncio.wait({life})
        if not quietly:
            self._events.stopped(self.instance_id, reason)
        self._log.info("provider.stopped", reason=reason)

    async def renew_keys(self) -> bool:
        """Have it use the keys that it should have now; False when it does not say that it does."""
        return self._process is None or await self._keys.renew(self._process)

    async def _start_anew(self) -> None:
        """Replace the process by one with new host data, while calls of this host's actors wait."""
        process, around = self._process, self._around
        if process is None or self._life is None:
            return
        async with contextlib.AsyncExitStack() as held:
            paths = [(actor, *self.key) for actor in self.links]
            await asyncio.gather(
                *(held.enter_async_context(around.holding.held(path, patience=LET_FINISH)) for path in paths)
            )
            if self._life is None or self._process is not process or not process.running:
                return  # stopped meanwhile, or replaced by one that has the new keys
            self._log.info("provider.starting_anew", reason=RENEWED)
            self._renewing = True
            self._is_up.clear()
            await process.end(hurry=self._hurry)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.start_timeout):
                    await self._is_up.wait()

    async def put_link(self, link: LinkDefinition) -> LinkStatus | None:
        """Tell it of a link and wait, within the link timeout, for how that went.

        None when it did not say, or is not up: it will get the link when it is.
        """
        self.links.setdefault(link.actor_id, LinkStatus(Condition.STARTING))
        if self._teller is None:
            return None
        status = await self._teller.put(link)
        self._note_link(link.actor_id, status)
        self._check_now.set()
        return status

    async def delete_link(self, link: LinkDefinition) -> None:
        """Forget a link, and tell all providers of that key."""
        self.links.pop(link.actor_id, None)
        if self._teller is not None:
            await self._teller.delete(link)
        elif self.image.ours:  # a classic one that is coming up is told of all changes when it is
            publish_removal(self._around.transport, self._around.lattice, link)
        self._check_now.set()

    def _stop_telling(self) -> None:
        if self._teller is not None:
            self._teller.close()
        self._teller = None

    def _note_link(self, actor_id: str, status: LinkStatus | None) -> None:
        if status is not None and actor_id in self.links:  # it may have been deleted meanwhile
            self.links[actor_id] = status

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
            if self._renewing:
                self._renewing = False
                self._stop_telling()
                self._answered, self._silence = False, None
                self._events.forget_health()
                self.condition, self.error = Condition.STARTING, RENEWED
                self._events.stopped(self.instance_id, RENEWED)
                continue
            self._note_death(reason)
            await self._abandon_calls(reason)
            if asyncio.get_running_loop().time() - begun > self._timing.stable_after:
                pause = shortest
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)
            self.restarts += 1

    def _note_death(self, reason: str) -> None:
        was_up = self._teller is not None
        self._stop_telling()
        self._answered = False
        self._silence = None
        self._events.forget_health()
        # One that has worked, or that somebody killed, is on its way back; one that ended by itself before it ever
        # was up has yet to show that it can work at all.
        coming_back = was_up or self._killed
        self.condition, self.error = Condition.STARTING if coming_back else Condition.FAILED, reason
        self.links = {actor: LinkStatus(self.condition, reason) for actor in self.links}
        self._log.warning("provider.died", reason=reason, restarts=self.restarts)
        if coming_back:
            self._events.stopped(self.instance_id, reason)
        else:
            self._events.start_failed(reason)

    async def _abandon_calls(self, reason: str) -> None:
        """Let calls in flight fail now rather than by their deadline, unless another host runs this provider, too."""
        around = self._around
        for _ in range(3):  # the server may notice the death a little later than we do
            others = await self._asking.anybody(0.2)
            if others is None:
                return
            if others is Silence.ABSENT:
                calls = subjects.provider_rpc(around.lattice, *self.key)
                around.transport.abandon(calls, f"its provider has ended ({reason})")
                return

    async def _run_once(self) -> str:
        """Start one process and watch it to its end; why it ended. Raises LatticeError when it may not be started."""
        image, around = self.image, self._around
        self.instance_id = str(uuid.uuid4())
        self._answered = self._killed = False
        self._output.begin()
        self._asking = HealthAsking(
            around.transport,
            around.lattice,
            provider_id=image.public_key,
            link_name=self.link_name,
            instance_id=self.instance_id,
        )
        await image.check()
        await around.check_login(image.public_key, ours=image.ours)
        if not image.ours:
            await self._asking.count_others()
        self._at_start = tuple(around.links_of(image.public_key, self.link_name))
        self.links = {link.actor_id: LinkStatus(Condition.STARTING) for link in self._at_start}
        self._keys.begin()
        self._process = process = await ProviderProcess.spawn(
            image,
            link_name=self.link_name,
            instance_id=self.instance_id,
            surroundings=around,
            environment=lambda folder: around.environment(self, folder),
            host_data=lambda: around.host_data(self),
            on_line=self._output.take,
            log=self._log,
        )
        self._log.info("provider.spawned", pid=process.pid, restarts=self.restarts)
        watching = begin(self._watch(process), f"health of {image.name}")
        try:
            code = await process.wait()
            self._killed = code in (-signal.SIGKILL, -signal.SIGTERM)
            complaint = self._output.complaint
            last_words = f": {complaint}" if complaint and not self._killed else ""
            return describe_exit(code) + last_words
        finally:
            watching.cancel()
            await process.kill_all()  # whatever is left
            await asyncio.wait({watching})

    async def _watch(self, process: ProviderProcess) -> None:
        """Wait until the process is up, then ask for its health again and again. Cancelled when it ends."""
        try:
            timing, loop = self._timing, asyncio.get_running_loop()
            doubt = Doubt(self._asking, patience=timing.classic_start, over=self.image.ours)
            await self._come_up(await self._first_answer())
            if self.image.ours:
                interval, patience = min(timing.watch_interval, timing.health_interval), timing.hung_after
            else:
                interval, patience = timing.health_interval, timing.classic_hung_after
            self._silence = silence = SilenceMeter(timing.health_timeout + timing.trouble_interval, now=loop.time())
            while True:
                if silence.seconds:
                    answered, others = await asyncio.gather(
                        self._check_health(), self._asking.anybody(timing.health_timeout)
                    )
                    silence.alone = others is not None
                else:
                    answered = await self._check_health()
                if answered:
                    silence.heard(loop.time())
                elif self._answered:
                    silence.unanswered(loop.time())
                if silence.seconds >= patience:
                    self._log.warning("provider.hung", silent_s=round(silence.seconds, 1))
                    await process.kill()
                    return
                if self._teller is not None:
                    await doubt.look(self._teller.repeat)
                calm = self._events.healthy and all(link.state is Condition.READY for link in self.links.values())
                pause = interval if calm or not self._answered else timing.trouble_interval
                await self._pause(doubt.pause(pause))
        except Exception:
            self._log.exception("provider.watch_failed")
            await process.kill()  # supervision without eyes is none; the restart begins anew

    async def _first_answer(self) -> HealthReply | None:
        """Ask until the process answers; None when a classic one seems not to mean to."""
        loop, timing = asyncio.get_running_loop(), self._timing
        begun = loop.time()
        reported = False
        pause, longest = _READY_POLL
        # Where another host runs this provider, too, its process hears the question and keeps silent.
        patience = _FIRST_PATIENCE if self.image.ours else timing.health_timeout
        while True:
            answer = await self._asking.ask_newcomer(min(patience, timing.health_timeout))
            patience *= 1.5
            if isinstance(answer, HealthReply):
                return answer
            age = loop.time() - begun
            connected = self._around.transport.state is State.CONNECTED
            if not self.image.ours and connected:
                mute = answer is Silence.MUTE and not await self._asking.is_heard_elsewhere()
                if mute or age > timing.classic_start:
                    return None
            if not reported and age > timing.start_timeout:
                reported = True
                self.condition = Condition.DEGRADED
                self.error = f"no answer to health checks for {timing.start_timeout:g} s after its start"
                self._events.start_failed(self.error)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, longest)

    async def _come_up(self, answer: HealthReply | None) -> None:
        around = self._around
        if self.image.ours or (answer is not None and answer.links is not None):
            self._teller = OwnLinks(
                around.transport,
                around.lattice,
                instance_id=self.instance_id,
                known=self._at_start,
                timeout=self._timing.link_timeout,
            )
        else:
            self._teller = ClassicLinks(around.transport, around.lattice, known=self._at_start, holding=around.holding)
        self._ever_up, self._answered = True, answer is not None
        self.condition, self.error = (Condition.READY, "") if self._answered else (Condition.DEGRADED, _SILENT)
        self._events.started(self.instance_id)
        self._log.info("provider.ready", answers=self._answered)
        await self._catch_up()
        self._is_up.set()
        await self.renew_keys()

    async def _catch_up(self) -> None:
        """It hears of links only once it is subscribed: what changed since its host data were written is told now."""
        assert self._teller is not None
        links = self._around.links_of(self.image.public_key, self.link_name)
        for actor_id, status in (await self._teller.catch_up(links)).items():
            self._note_link(actor_id, status)

    async def _check_health(self) -> bool:
        """Ask, note the answer, publish what changed; False when it was asked and did not answer."""
        health = await self._asking.ask(self._timing.health_timeout)
        if self._life is None:
            return True  # on its way out
        if isinstance(health, Silence):
            excuse = self._excuse(health)
            self.condition, self.error = Condition.DEGRADED, excuse or _SILENT
            self._publish_health(self.error)
            return bool(excuse)
        if not self._answered:
            self._answered = True
            await self._catch_up()  # perhaps it was not as silent as it was slow, and heard nothing so far
        links = self._around.links_of(*self.key)
        if health.links is not None:
            self.links = {
                link.actor_id: health.links.get(link.actor_id, LinkStatus(Condition.STARTING)) for link in links
            }
        states = {link.state for link in self.links.values()}
        self.error = health.failure
        if not health.failure:
            self.condition = Condition.READY
        elif states == {Condition.FAILED}:
            self.condition = Condition.FAILED
        else:
            self.condition = Condition.DEGRADED
        self._publish_health(health.failure)
        if self._teller is not None:
            await self._teller.make_up_for(links, health.links or ())
        return True

    def _excuse(self, silence: Silence) -> str:
        """Why it could not be asked; empty when it was."""
        if silence is Silence.FORBIDDEN:
            return "the NATS user of this host may not ask it how it is; see docs/security.md"
        return "" if self._around.transport.state is State.CONNECTED else "the host has no connection to NATS"

    def _publish_health(self, failure: str) -> None:
        now = asyncio.get_running_loop().time()
        if self._events.health(failure, now, answered=self._answered):
            self._log.warning("provider.unhealthy", reason=failure)

    async def _pause(self, seconds: float) -> None:
        self._check_now.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._check_now.wait(), seconds)
