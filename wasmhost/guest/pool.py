"""The instances of one actor: one call at a time each, the rest waits in order or is refused at once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

import structlog

from lattice.background import Background
from lattice.deadlines import Deadlines
from lattice.errors import Code, GuestFailed, LatticeError, Overloaded, TooLarge, Unreachable
from wasmhost.guest import planning
from wasmhost.guest.call import Call
from wasmhost.guest.calls import CallContext, GuestCall, HostCallHandler, Limits
from wasmhost.guest.engine import Engine
from wasmhost.guest.guestlog import GuestLogger
from wasmhost.guest.instance import Instance
from wasmhost.guest.module import Module

log = structlog.get_logger(__name__)

_SLICE = 0.001
"""Seconds for which guests run in one turn of the loop; then others get theirs, and messages that arrived are seen."""
_CLOSE_TIMEOUT = 5.0
"""Seconds that :meth:`ActorPool.close` waits for the calls it ended."""
_CALL_OVERHEAD = 1024
"""Bytes that a waiting call counts beside its request."""


class ActorPool:
    """Runs the calls of one actor on at most ``wanted`` instances, which start when they are needed.

    Belongs to one event loop. An instance that trapped, ran out of time or was cancelled is thrown away, and so is one
    that grew beyond ``limits.retain_memory``; the next call that needs one starts a new one.
    """

    def __init__(
        self,
        engine: Engine,
        module: Module,
        *,
        actor: str,
        limits: Limits,
        host_calls: HostCallHandler,
        instances: int,
    ) -> None:
        self._engine = engine
        self._module = module
        self._actor = actor
        self._limits = limits
        self._log = log.bind(actor=actor)
        self._guest_log = GuestLogger(actor)
        self.driver = engine.driver(host_calls, limits, actor=actor)
        self._wanted = instances
        self._idle: list[Instance] = []
        self._waiting: OrderedDict[Call, None] = OrderedDict()
        self._waiting_bytes = 0
        self._size = 0
        self._starting = 0
        self._starts = Background()
        self._driven: set[Call] = set()
        self._quiet: list[asyncio.Future[None]] = []
        self._service_time = planning.Average()
        self._pace = planning.Average()
        self._left_queue: float | None = None
        """When the last call left the queue, while others went on waiting."""
        self._spent = 0.0
        """Seconds for which guests ran in this turn of the loop."""
        self._turn_ends = False
        self._serving = False
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self.deadlines = Deadlines()
        self.time: Callable[[], float] = self._loop.time
        """The clock of deadlines."""
        self.api_version = 0
        """What the actor's version export returned, once an instance was started; 0 without one."""

    # --- state --------------------------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """Calls that hold an instance now."""
        return self._size - self._starting - len(self._idle)

    @property
    def waiting(self) -> int:
        """Calls that wait for an instance."""
        return len(self._waiting)

    @property
    def wanted(self) -> int:
        """How many instances this pool may have."""
        return self._wanted

    @property
    def started(self) -> int:
        """How many instances exist, idle or busy."""
        return self._size - self._starting

    @property
    def limits(self) -> Limits:
        return self._limits

    # --- calls --------------------------------------------------------------------------------------------------

    def refusal(self, size: int, remaining: float) -> Overloaded | None:
        """What :meth:`begin` would refuse a request of ``size`` bytes with, whose caller waits ``remaining`` seconds.

        Costs little, so that it can be asked before anything else is done for a call.
        """
        return self._overload(size + _CALL_OVERHEAD, min(remaining, self._limits.deadline))

    def begin(self, operation: str, payload: bytes, context: CallContext) -> GuestCall:
        """Start a call; never blocks and never raises: what goes wrong is raised by ``result()`` or ``wait()``.

        With a free instance the guest runs at once, until it ends or waits. Without one, or when guests have run
        enough in this turn of the loop, the call waits its turn, or is done with Overloaded when that would come too
        late: messages behind this one have to be seen before they can be refused. The deadline of ``context`` becomes
        that of the call, if it is later.
        """
        now = self._loop.time()
        deadline = min(context.deadline, now + self._limits.deadline)
        context.deadline = deadline  # host calls end before it, so that the guest can be told why
        call = Call(self, operation, payload, context, deadline=deadline, begun=now)
        if len(payload) > self._limits.request:
            call.fail(
                TooLarge(
                    f"{operation}: a request of {len(payload)} bytes is above this actor's limit of"
                    f" {self._limits.request} bytes"
                )
            )
        elif self._closed or self._wanted == 0:
            call.fail(self._gone())
        elif self._idle and not self._waiting and self._spent < _SLICE:
            self._start_call(call, now)
        else:
            self._enqueue(call, remaining=deadline - now)
        return call

    async def call(self, operation: str, payload: bytes, context: CallContext) -> bytes:
        """Make a call and return the response bytes; raises what :meth:`GuestCall.result` does."""
        call = self.begin(operation, payload, context)
        return call.result() if call.done else await call.wait()

    def _enqueue(self, call: Call, *, remaining: float) -> None:
        size = len(call.payload) + _CALL_OVERHEAD
        refusal = self._overload(size, remaining)
        if refusal is not None:
            call.fail(refusal)
            return
        self._waiting[call] = None
        self._waiting_bytes += size
        self._serve()

    def _overload(self, size: int, remaining: float) -> Overloaded | None:
        # A call that need not wait is never refused: once a call ran out of time and its instance was thrown away,
        # nobody would ever see a faster one.
        if not self._waiting and (self._idle or self._size < self._wanted):
            return None
        queue = planning.Queue(
            waiting=len(self._waiting),
            waiting_bytes=self._waiting_bytes,
            byte_limit=self._limits.queue_bytes,
            instances=self._wanted,
            service_time=self._service_time.value,
            pace=self._pace.value,
        )
        reason = planning.refusal(queue, size=size, remaining=remaining)
        if reason is None:
            return None
        return Overloaded(
            f"the actor {self._actor} is overloaded: {reason}; retry later or raise its scale",
            retry_after=max(0.05, queue.expected_wait),
        )

    def forget(self, call: Call) -> None:
        """Take a call that nobody waits for any more out of the queue."""
        if call in self._waiting:
            del self._waiting[call]
            self._waiting_bytes -= len(call.payload) + _CALL_OVERHEAD
            self._notice_quiet()

    def driven(self, call: Call, *, by_task: bool) -> None:
        """Note which calls somebody awaits, so that :meth:`close` can end them; one that comes later ends as well."""
        if by_task:
            self._driven.add(call)
            if self._closed:
                call.abort(self._gone())
        else:
            self._driven.discard(call)

    def release(self, instance: Instance, *, held: float) -> None:
        """Take an instance back after a call that held it for so many seconds."""
        self._service_time.add(held)
        if instance.poisoned or self._closed or instance.oversized:
            self.discard(instance)
        else:
            self._idle.append(instance)
        if self._waiting or self._size > self._wanted:
            self._serve()
        elif self._quiet:
            self._notice_quiet()

    def release_stray(self, instance: Instance) -> None:
        """Take back an instance whose call nobody will ever finish. Any thread."""
        instance.poisoned = True
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(lambda: self.release(instance, held=0.0))

    def discard(self, instance: Instance) -> None:
        """Throw an instance away."""
        self._size -= 1
        if not instance.lent:
            instance.close()

    # --- instances ----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Carry out the plan: calls to idle instances, new instances, instances to retire."""
        if self._serving:
            return
        self._serving = True
        try:
            while True:
                plan = planning.plan(
                    waiting=len(self._waiting),
                    idle=len(self._idle),
                    starting=self._starting,
                    size=self._size,
                    wanted=0 if self._closed else self._wanted,
                )
                for _ in range(plan.retire):
                    self.discard(self._idle.pop(0))
                for _ in range(plan.grow):
                    self._start_another()
                if not plan.assign or self._spent >= _SLICE:
                    break  # the next turn goes on
                self._assign(self._loop.time())
        finally:
            self._serving = False
        self._notice_quiet()

    def _assign(self, now: float) -> None:
        call, _ = self._waiting.popitem(last=False)
        self._waiting_bytes -= len(call.payload) + _CALL_OVERHEAD
        if call.deadline <= now:
            call.expire()  # its caller gave up: no work for nobody
            return
        if self._left_queue is not None:
            self._pace.add(now - self._left_queue)
        elif not self._waiting:
            # It was alone, and saw half a pace on average. That has to count: where the pace of worse times lets nobody
            # wait behind another one, there are only such calls, and the better times would never be known.
            self._pace.bound(2 * (now - call.begun))
        self._left_queue = now if self._waiting else None
        self._start_call(call, now)

    def _start_call(self, call: Call, now: float) -> None:
        """Run a call on a free instance until it ends or waits."""
        if not self._turn_ends:
            self._turn_ends = True
            self._loop.call_soon(self._next_turn)
        call.start(self._idle.pop(), now)
        self._spent += self._loop.time() - now

    def _next_turn(self) -> None:
        self._turn_ends = False
        self._spent = 0.0
        if self._waiting:
            self._serve()

    def _start_another(self) -> None:
        self._starts.begin(self._start_for_waiting(), f"start an instance of {self._actor}")
        self._size += 1
        self._starting += 1

    async def _start_for_waiting(self) -> None:
        try:
            await self._start()
        except LatticeError as error:
            self._log.warning("instance.start_failed", error=str(error))
            if self._size == 0:
                # nobody is left to serve them; each later call tries again
                text, code = str(error), error.code
                self._fail_waiting(lambda: GuestFailed(text, code=code))

    async def start_one(self) -> None:
        """Start an instance unless one exists, so that a broken module is noticed now. Raises GuestFailed."""
        if self.started == 0:
            self._size += 1
            self._starting += 1
            await self._start()

    async def _start(self) -> None:
        """Make an instance that ``_size`` and ``_starting`` count already."""
        try:
            instance = await self._make()
        except BaseException:
            self._size -= 1
            self._starting -= 1
            raise
        self._starting -= 1
        self.api_version = instance.api_version
        self._idle.append(instance)
        self._serve()

    async def _make(self) -> Instance:
        instance = self._engine.instance(self._module, self._limits, log=self._guest_log)
        try:
            context = CallContext(deadline=self._loop.time() + self._limits.deadline)
            instance.deadline = context.deadline
            async with asyncio.timeout_at(context.deadline):
                for done in instance.steps():
                    if not done:
                        await self.driver.finish(instance, context)
        except BaseException as error:
            if not instance.lent:
                instance.close()
            if isinstance(error, TimeoutError):
                raise GuestFailed(
                    f"the actor's initialisation ran past its deadline of {self._limits.deadline:g} s",
                    code=Code.TIMED_OUT,
                ) from None
            if isinstance(error, GuestFailed):
                raise GuestFailed(f"the actor {self._actor} cannot start: {error}", code=error.code) from error
            raise
        return instance

    def resize(self, instances: int) -> None:
        """Allow so many instances from now on; idle ones above it go at once, busy ones after their call."""
        self._wanted = instances
        if instances == 0:
            self._fail_waiting(self._gone)
        self._serve()

    # --- ending -------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Return when no call runs or waits. Stop the arrival of calls before."""
        while self.active or self._waiting:
            quiet = self._loop.create_future()
            self._quiet.append(quiet)
            await quiet

    async def close(self) -> None:
        """End all calls with an error and free all instances."""
        self._closed = True
        await self._starts.end()
        self._fail_waiting(self._gone)
        for call in list(self._driven):
            call.abort(self._gone())
        self._serve()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self.drain()
        except TimeoutError:
            self._log.error("pool.calls_left", calls=self.active)

    def _fail_waiting(self, error: Callable[[], LatticeError]) -> None:
        # An error of its own for each: every raise of an exception adds to its traceback.
        for call in list(self._waiting):
            call.fail(error())

    def _gone(self) -> LatticeError:
        return Unreachable(f"the actor {self._actor} was stopped on this host", code=Code.NOT_RUNNING)

    def _notice_quiet(self) -> None:
        if self._quiet and not self.active and not self._waiting:
            for quiet in self._quiet:
                if not quiet.done():
                    quiet.set_result(None)
            self._quiet.clear()
