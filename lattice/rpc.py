"""Calls over the lattice: signed invocations out, responses back, and what the serving side needs to answer.

The time that a caller has left travels with each call (:data:`DEADLINE_HEADER`), so that work whose caller has given
up is not begun. Classic peers neither send nor read it. What is too large for one message goes through the object store
(:mod:`lattice.chunks`).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

import structlog

from lattice import subjects
from lattice.antiforgery import Signer
from lattice.chunks import EXTRA_TIME, LARGEST, MAX_MSG, Chunks
from lattice.errors import Code, LatticeError, MalformedMessage, Overloaded, RemoteError, TooLarge, Unreachable
from lattice.invocation import Entity, Invocation, InvocationResponse
from lattice.transport import Headers, Transport

log = structlog.get_logger(__name__)

DEADLINE_HEADER: Final = "Wasmhost-Deadline-Ms"
"""Milliseconds that the caller goes on waiting, counted from the moment of sending."""
_MAX_DEADLINE_DIGITS: Final = 9


class RpcClient:
    """Calls actors and providers of one lattice in the name of one signer."""

    def __init__(self, transport: Transport, lattice: str, signer: Signer, chunks: Chunks | None = None) -> None:
        """Without ``chunks`` large arguments and results are refused."""
        self._transport = transport
        self._lattice = subjects.validate_lattice(lattice)
        self._signer = signer
        self._chunks = chunks

    async def call(
        self,
        *,
        origin: Entity,
        target: Entity,
        operation: str,
        msg: bytes,
        timeout: float,
        strict: bool = False,
        max_reply: int = LARGEST,
    ) -> bytes:
        """Sign, send and await the answer, at most ``timeout`` seconds; never repeated.

        A payload that is stored first gets EXTRA_TIME more, as the classic libraries give it, unless ``strict``: then
        ``timeout`` is what somebody else waits. A result of more than ``max_reply`` bytes is refused unread.

        Raises Unreachable (NO_RESPONDERS, TIMED_OUT or DISCONNECTED), Overloaded, RemoteError with the text and code of
        the answer, TooLarge for an argument that cannot be stored, MalformedMessage when the answer is not one, and
        NotAuthorized when the NATS server does not permit the subject; ``invocation_id`` of the error names the call.
        Cancelling it does not stop the target.
        """
        if target.link_name:
            subject = subjects.provider_rpc(self._lattice, target.public_key, target.link_name)
        else:
            subject = subjects.actor_rpc(self._lattice, target.public_key)
        more = 0.0 if strict else EXTRA_TIME
        if self._is_large(msg, operation):
            return await self._call_large(
                origin, target, operation, msg, subject=subject, timeout=timeout + more, more=more, max_reply=max_reply
            )
        invocation = self._signer.sign(origin=origin, target=target, operation=operation, msg=msg)
        return await self._exchange(invocation, subject, timeout=timeout, more=more, max_reply=max_reply)

    def _is_large(self, msg: bytes, operation: str) -> bool:
        if self._chunks is not None:
            return self._chunks.is_large(len(msg))
        if len(msg) > MAX_MSG:
            raise TooLarge(f"the argument of {operation} has {len(msg)} bytes; this client sends at most {MAX_MSG}")
        return False

    async def _call_large(
        self,
        origin: Entity,
        target: Entity,
        operation: str,
        msg: bytes,
        *,
        subject: str,
        timeout: float,
        more: float,
        max_reply: int,
    ) -> bytes:
        """Store the argument while it is hashed and signed, then send the envelope."""
        assert self._chunks is not None
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        invocation_id = self._signer.new_id()
        what = f"the argument of {operation}"

        def sign() -> Invocation:
            return self._signer.sign(
                origin=origin, target=target, operation=operation, msg=msg, invocation_id=invocation_id
            )

        try:
            async with asyncio.timeout_at(end):
                stored, signed = await asyncio.gather(
                    self._chunks.send(invocation_id, msg, what=what), asyncio.to_thread(sign)
                )
        except TimeoutError:
            raise Unreachable(f"{what}, {len(msg)} bytes, could not be stored within {timeout:g} s") from None
        envelope = replace(signed, msg=b"", content_length=len(msg))
        try:
            return await self._exchange(envelope, subject, timeout=end - loop.time(), more=more, max_reply=max_reply)
        except BaseException:
            self._chunks.discard(stored)  # maybe nobody has read it, and nobody will
            raise

    async def _exchange(
        self, invocation: Invocation, subject: str, *, timeout: float, more: float, max_reply: int
    ) -> bytes:
        milliseconds = int(timeout * 1000)
        if milliseconds <= 0:
            raise Unreachable(f"no time left to call {invocation.operation} on {subject}", code=Code.TIMED_OUT)
        end = asyncio.get_running_loop().time() + timeout + more
        try:
            reply = await self._transport.request(
                subject, invocation.encode(), timeout=timeout, headers={DEADLINE_HEADER: str(milliseconds)}
            )
            response = InvocationResponse.decode(reply.payload)
            _check(response, invocation.id)
            if response.chunked:
                return await self._fetch(response, invocation, end=end, max_reply=max_reply)
            return response.msg
        except LatticeError as error:
            error.invocation_id = invocation.id
            raise

    async def _fetch(
        self, response: InvocationResponse, invocation: Invocation, *, end: float, max_reply: int
    ) -> bytes:
        name, what = answer_name(invocation.id), f"the answer to {invocation.operation}"
        size = response.content_length or 0
        if self._chunks is None or size > max_reply:
            if self._chunks is not None:
                self._chunks.drop(name)
            limit = MAX_MSG if self._chunks is None else max_reply
            raise RemoteError(f"{what} has {size} bytes; at most {limit} are taken here", code=Code.REPLY_TOO_LARGE)
        return await self._chunks.receive(name, size, what=what, deadline=end)


def answer_name(invocation_id: str) -> str:
    """The name under which the result of an invocation is stored."""
    return f"{invocation_id}-r"


def _check(response: InvocationResponse, invocation_id: str) -> None:
    """Raise the error that a response holds, or MalformedMessage for one to another call."""
    if response.error is not None:
        raise _remote_error(response)
    # Some classic hosts leave the id out; a wrong one would hand one call's answer to another.
    if response.invocation_id and response.invocation_id != invocation_id:
        raise MalformedMessage(
            f"invocation response: answers invocation {response.invocation_id[:80]}, not {invocation_id}"
        )


def _remote_error(response: InvocationResponse) -> LatticeError:
    text = response.error or "the peer answered with an error without a text"
    try:
        code = Code(response.code) if response.code else Code.PROVIDER_ERROR
    except ValueError:
        code = Code.PROVIDER_ERROR
    if code is Code.OVERLOADED:
        return Overloaded(text, retry_after=1.0 if response.retry_after is None else response.retry_after)
    return RemoteError(text, code=code)


def remaining(headers: Headers, default: float) -> float:
    """Seconds that the caller goes on waiting; ``default`` where it does not say so in a way that can be read."""
    if headers is None:
        return default
    text = headers.get(DEADLINE_HEADER)
    if text is None or not text.isdecimal() or len(text) > _MAX_DEADLINE_DIGITS:
        return default
    return int(text) / 1000


def failure(invocation_id: str, error: Exception) -> InvocationResponse:
    """The answer that tells the caller of ``error``; of one that is not ours it says no more than the invocation."""
    if not isinstance(error, LatticeError):
        text = f"internal error (invocation {invocation_id})"
        return InvocationResponse(invocation_id=invocation_id, error=text, code=Code.INTERNAL)
    return InvocationResponse(
        invocation_id=invocation_id,
        error=str(error),
        code=error.code,
        retry_after=error.retry_after if isinstance(error, Overloaded) else None,
    )


def reply_bytes(response: InvocationResponse, *, limit: int = MAX_MSG) -> bytes:
    """``response`` as it is sent; one whose ``msg`` is larger than ``limit`` becomes an error that says so."""
    size = len(response.msg)
    if size > limit:
        error = LatticeError(
            f"the answer has {size} bytes; at most {limit} fit into one message", code=Code.REPLY_TOO_LARGE
        )
        return failure(response.invocation_id, error).encode()
    return response.encode()


async def store_answer(
    chunks: Chunks, response: InvocationResponse, operation: str, *, within: float = EXTRA_TIME
) -> InvocationResponse:
    """Store a large ``msg`` for the caller; the response to send then, or the error that tells what went wrong.

    ``within``: seconds that the caller goes on waiting; what took longer nobody would fetch, and is removed again.
    """
    size, what, within = len(response.msg), f"the answer to {operation}", min(within, EXTRA_TIME)
    error: LatticeError
    try:
        async with asyncio.timeout(within):
            await chunks.send(answer_name(response.invocation_id), response.msg, what=what)
        return replace(response, msg=b"", content_length=size)
    except TimeoutError:
        error = Unreachable(f"{what}, {size} bytes, could not be stored within {max(0.0, within):.3g} s")
    except TooLarge as problem:
        error = LatticeError(str(problem), code=Code.REPLY_TOO_LARGE)
    except LatticeError as problem:
        error = problem
    log.warning("call.answer_not_stored", invocation=response.invocation_id[:80], bytes=size, reason=str(error))
    return failure(response.invocation_id, error)


def respond(transport: Transport, reply: str, response: InvocationResponse) -> None:
    """Answer on ``reply``; never raises. Nothing is sent where no answer is wanted or the subject is not an inbox.

    NATS lets a sender name any subject for the reply, also one that it may not publish to; whoever answers there acts
    in the sender's name.
    """
    if not reply:
        return
    if not subjects.is_inbox(reply):
        log.warning("security.reply_refused", reply=reply[:200], invocation=response.invocation_id[:80])
        return
    try:
        try:
            transport.publish(reply, reply_bytes(response))
        except TooLarge as problem:
            too_large = LatticeError(str(problem), code=Code.REPLY_TOO_LARGE)
            transport.publish(reply, failure(response.invocation_id, too_large).encode())
    except LatticeError as error:
        log.warning("call.answer_lost", invocation=response.invocation_id[:80], reason=str(error))
