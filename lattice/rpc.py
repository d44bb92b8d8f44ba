"""Calls over the lattice: signed invocations out, responses back, and what the serving side needs to answer.

The time that a caller has left travels with each call (:data:`DEADLINE_HEADER`), so that work whose caller has given
up is not begun. Classic peers neither send nor read it.
"""

from __future__ import annotations

from typing import Final

import structlog

from lattice import subjects
from lattice.antiforgery import Signer
from lattice.errors import Code, LatticeError, MalformedMessage, Overloaded, RemoteError, TooLarge, Unreachable
from lattice.invocation import Entity, InvocationResponse
from lattice.transport import Headers, Transport

log = structlog.get_logger(__name__)

DEADLINE_HEADER: Final = "Wasmhost-Deadline-Ms"
"""Milliseconds that the caller goes on waiting, counted from the moment of sending."""
MAX_MSG: Final = 921_600
"""Largest ``msg`` in one message, in bytes: the classic threshold, which leaves room below NATS' 1 MiB for the rest."""

_MAX_DEADLINE_DIGITS: Final = 9


class RpcClient:
    """Calls actors and providers of one lattice in the name of one signer."""

    def __init__(self, transport: Transport, lattice: str, signer: Signer) -> None:
        self._transport = transport
        self._lattice = subjects.validate_lattice(lattice)
        self._signer = signer

    async def call(self, *, origin: Entity, target: Entity, operation: str, msg: bytes, timeout: float) -> bytes:
        """Sign, send and await the answer, at most ``timeout`` seconds; never repeated.

        Raises Unreachable (NO_RESPONDERS, TIMED_OUT or DISCONNECTED), Overloaded, RemoteError with the text and code of
        the answer, TooLarge for the argument, MalformedMessage when the answer is not one, and NotAuthorized when the
        NATS server does not permit the subject; ``invocation_id`` of the error names the call. Cancelling it does not
        stop the target.
        """
        if len(msg) > MAX_MSG:
            raise TooLarge(
                f"the argument of {operation} has {len(msg)} bytes; more than {MAX_MSG} are not supported yet"
            )
        if target.link_name:
            subject = subjects.provider_rpc(self._lattice, target.public_key, target.link_name)
        else:
            subject = subjects.actor_rpc(self._lattice, target.public_key)
        milliseconds = int(timeout * 1000)
        if milliseconds <= 0:
            raise Unreachable(f"no time left to call {operation} on {subject}", code=Code.TIMED_OUT)
        invocation = self._signer.sign(origin=origin, target=target, operation=operation, msg=msg)
        try:
            reply = await self._transport.request(
                subject, invocation.encode(), timeout=timeout, headers={DEADLINE_HEADER: str(milliseconds)}
            )
            return _answer(InvocationResponse.decode(reply.payload), invocation.id, operation)
        except LatticeError as error:
            error.invocation_id = invocation.id
            raise


def _answer(response: InvocationResponse, invocation_id: str, operation: str) -> bytes:
    if response.error is not None:
        raise _remote_error(response)
    # Some classic hosts leave the id out; a wrong one would hand one call's answer to another.
    if response.invocation_id and response.invocation_id != invocation_id:
        raise MalformedMessage(
            f"invocation response: answers invocation {response.invocation_id[:80]}, not {invocation_id}"
        )
    if response.content_length is not None and response.content_length > len(response.msg):
        raise RemoteError(
            f"the answer to {operation} has {response.content_length} bytes and waits in the object store, "
            "which is not supported yet",
            code=Code.TOO_LARGE,
        )
    return response.msg


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
        error = TooLarge(f"the answer has {size} bytes; more than {limit} are not supported yet")
        return failure(response.invocation_id, error).encode()
    return response.encode()


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
        except TooLarge as error:
            transport.publish(reply, failure(response.invocation_id, error).encode())
    except LatticeError as error:
        log.warning("call.answer_lost", invocation=response.invocation_id[:80], reason=str(error))
