"""From a checked image to an actor that can take calls: compiled, one instance started."""

from __future__ import annotations

from lattice.chunks import Chunks
from lattice.transport import Transport
from wasmhost.calls.admission import Admission
from wasmhost.calls.call_events import CallEvents
from wasmhost.calls.directory import RunningActor
from wasmhost.calls.inbound import Inbound
from wasmhost.calls.outbound import Outbound
from wasmhost.calls.spies import Spies
from wasmhost.configuration.config import HostConfig
from wasmhost.guest.calls import Limits
from wasmhost.guest.engine import Engine
from wasmhost.guest.pool import ActorPool
from wasmhost.images.actor_file import ActorImage
from wasmhost.policy.calls import CallPolicy


class ActorStarter:
    """What every actor of one host is made with."""

    def __init__(
        self,
        *,
        config: HostConfig,
        engine: Engine,
        transport: Transport,
        chunks: Chunks,
        admission: Admission,
        outbound: Outbound,
        spies: Spies | None = None,
        call_events: CallEvents | None = None,
        call_policy: CallPolicy | None = None,
        trace: bool = False,
    ) -> None:
        self._call_policy = call_policy
        self._call_events = call_events
        self._config = config
        self._engine = engine
        self._transport = transport
        self._chunks = chunks
        self._admission = admission
        self._outbound = outbound
        self._spies = spies
        self._trace = trace

    async def ready(self, image: ActorImage, instances: int, bounds: Limits) -> RunningActor:
        """Compile the module and start one of ``instances``, so that one that cannot work is noticed now.

        Raises what :meth:`Engine.load` and :meth:`ActorPool.start_one` raise. The caller closes the pool.
        """
        claims = image.claims
        capabilities = frozenset(contract for contract in claims.capabilities if contract)
        module = await self._engine.load(image.wasm, image.digest)
        pool = ActorPool(
            self._engine,
            module,
            actor=claims.subject,
            limits=bounds,
            host_calls=self._outbound.host_call(claims.subject, capabilities, max_reply=bounds.reply),
            instances=instances,
        )
        try:
            await pool.start_one()
        except BaseException:
            await pool.close()
            raise
        return RunningActor(claims=claims, reference=image.reference, digest=image.digest, pool=pool)

    async def serve(self, actor: RunningActor) -> Inbound:
        """Join the actor's queue group: from here on calls arrive."""
        inbound = Inbound(
            actor,
            transport=self._transport,
            chunks=self._chunks,
            lattice=self._config.lattice,
            admission=self._admission,
            default_timeout=self._config.rpc_timeout,
            longest_timeout=actor.pool.limits.deadline,
            spies=self._spies,
            call_events=self._call_events,
            policy=self._call_policy,
            trace=self._trace,
        )
        try:
            await inbound.start()
        except BaseException:
            await inbound.close()
            raise
        return inbound
