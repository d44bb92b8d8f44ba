"""A listening socket passed from a provider process to its successor on the same machine, so that no client is refused.

The old process offers; the new one, started with the order to follow it, asks. What is passed is the socket itself
(SCM_RIGHTS), so both hold the queue in which the kernel keeps new connections: whoever accepts next continues where the
other one stopped, and a port is never bound twice. The new one accepts nothing while the old one is there, which it
sees by the connection between them: it ends when the old one leaves or dies, and only then is it the new one's turn.

They meet at a Unix socket in a folder that is their user's alone, and each checks the other's user and that it holds
the issuer key of this provider and link name, which only processes of one cluster do.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from lattice.errors import Code, LatticeError
from lattice.hostdata import HostData
from lattice.keys import KeyPair

log = structlog.get_logger()

TIMEOUT: Final = 5.0
"""Seconds for each answer of the other side."""
_MOST_SUCCESSORS: Final = 4
_NONCE: Final = 32
_LONGEST: Final = 512
_TAKE: Final = b"take "
_HERE: Final = b"here"
_NONE: Final = b"none"

Find = Callable[[str], socket.socket | None]
"""The listening socket of that name, as the provider calls it."""


class HandoverFailed(LatticeError):
    """There is nobody to take over from, or not by us; the message says why."""

    code = Code.PROVIDER_ERROR


def meeting_point(host_data: HostData, host_id: str) -> str:
    """The name of the socket at which the process of ``host_id`` offers; tells nothing to who lists the folder."""
    parts = (host_data.lattice_rpc_prefix, host_data.provider_key, host_data.link_name, host_id)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def shared_key(key: KeyPair) -> bytes:
    """What both processes prove to hold. ``key``: the issuer key in their host data."""
    return key.derived_secret(b"wasmhost socket hand-over v1")


class _Folder:
    """A private folder, held open: sockets in it are reached through it, however long its path is."""

    def __init__(self, path: Path) -> None:
        """Raises OSError; PermissionError for a folder that others may use."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        found = os.fstat(self._descriptor)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            self.close()
            raise PermissionError(f"{path} is not a folder of this user alone")

    def address(self, name: str) -> str:
        return f"/proc/self/fd/{self._descriptor}/{name}"

    def remove(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(name, dir_fd=self._descriptor)

    def which(self, name: str) -> int | None:
        """What tells the file of that name from a later one; None when there is none."""
        try:
            return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_ino
        except OSError:
            return None

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._descriptor)


class Offer:
    """Gives this process' listening sockets to a successor that asks for them and may have them."""

    def __init__(self, folder: _Folder, name: str, key: bytes, find: Find) -> None:
        self._folder = folder
        self._name = name
        self._key = key
        self._find = find
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._file: int | None = None
        """That of ``_socket``: the host may have started the next process, which offers under the same name."""
        self._successors: dict[asyncio.Task[None], socket.socket] = {}
        self._given: dict[str, asyncio.Task[None]] = {}
        """Which successor has a socket, by its name: two would both accept from it one day."""

    def renew(self, key: KeyPair) -> None:
        """Give to processes that hold this issuer key from now on: the host has replaced the one before."""
        self._key = shared_key(key)

    @classmethod
    def open(cls, host_data: HostData, key: KeyPair, find: Find) -> Offer | None:
        """Offer from now on; None, with a warning, where that is impossible: all else works without."""
        try:
            folder = _Folder(Path(host_data.handover_folder))
        except OSError as error:
            log.warning("handover.impossible", reason=str(error))
            return None
        offer = cls(folder, meeting_point(host_data, host_data.host_id), shared_key(key), find)
        try:
            offer._listen()
        except OSError as error:
            log.warning("handover.impossible", reason=str(error))
            offer.close()
            return None
        return offer

    def close(self) -> None:
        """Offer nothing any more; a successor that has asked takes this as its turn."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            if self._folder.which(self._name) == self._file:
                self._folder.remove(self._name)
            self._socket.close()  # last: until then no other file gets the same number
            self._socket = None
        for task in list(self._successors):
            task.cancel()
        self._folder.close()

    def _listen(self) -> None:
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            bound.setblocking(False)
            self._folder.remove(self._name)  # of a process that was killed; there is one at a time per host
            bound.bind(self._folder.address(self._name))
            self._file = self._folder.which(self._name)
            bound.listen(_MOST_SUCCESSORS)
        except OSError:
            bound.close()
            raise
        self._socket = bound
        self._loop.add_reader(bound, self._accept)

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            peer, _ = self._socket.accept()
        except OSError:
            return
        peer.setblocking(False)
        if len(self._successors) >= _MOST_SUCCESSORS or _user_of(peer) != os.geteuid():
            peer.close()
            return
        task = self._loop.create_task(self._serve(peer), name="hand-over")
        self._successors[task] = peer
        task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._successors.pop(task).close()
        self._given = {name: holder for name, holder in self._given.items() if holder is not task}
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("handover.broke", reason=str(error) or type(error).__name__)

    async def _serve(self, peer: socket.socket) -> None:
        """One successor, until it or this process leaves."""
        nonce = secrets.token_bytes(_NONCE)
        async with asyncio.timeout(TIMEOUT):
            await self._loop.sock_sendall(peer, nonce)
            answer = await self._loop.sock_recv(peer, _LONGEST)
        theirs, proof = answer[:_NONCE], answer[_NONCE:]
        if not hmac.compare_digest(proof, _proof(self._key, b"successor", nonce, theirs)):
            log.warning("handover.refused", reason="another process of this user asked without the key")
            return
        await self._loop.sock_sendall(peer, _proof(self._key, b"predecessor", nonce, theirs))
        this = asyncio.current_task()
        assert this is not None
        while request := await self._loop.sock_recv(peer, _LONGEST):
            if not request.startswith(_TAKE):
                return
            name = request.removeprefix(_TAKE).decode("utf-8", "replace")
            found = self._find(name)
            if found is None or self._given.get(name, this) is not this:
                await self._loop.sock_sendall(peer, _NONE)
            else:
                self._given[name] = this
                socket.send_fds(peer, [_HERE], [found.fileno()])
                log.info("handover.given", name=name)


class Predecessor:
    """The process that this one follows, as long as it is there."""

    def __init__(self, peer: socket.socket) -> None:
        self.gone = asyncio.Event()
        """It has left, or died: what was taken from it is this process' alone."""
        self._socket = peer
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[tuple[bytes, list[int]]] | None = None
        self._asked = self._heard = 0
        """Questions and answers so far: an answer to a question that was given up may still come."""
        self._turn = asyncio.Lock()
        self._loop.add_reader(peer, self._read)

    @classmethod
    async def find(cls, host_data: HostData, key: KeyPair) -> Predecessor:
        """The process of the host that host data name as the one before. Raises HandoverFailed."""
        name = meeting_point(host_data, host_data.predecessor)
        try:
            folder = _Folder(Path(host_data.handover_folder))
        except OSError as error:
            raise HandoverFailed(str(error)) from error
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            peer.setblocking(False)
            peer.connect(folder.address(name))
            if _user_of(peer) != os.geteuid():
                raise HandoverFailed("another user's process listens there")
        except (OSError, HandoverFailed) as error:
            peer.close()
            if isinstance(error, HandoverFailed):
                raise
            raise HandoverFailed("no process of that host and of this user offers it on this machine") from error
        finally:
            folder.close()
        found = cls(peer)
        try:
            await found._prove(shared_key(key))
        except BaseException:
            found.close()
            raise
        return found

    async def take(self, name: str) -> socket.socket | None:
        """The listening socket that the other process knows under ``name``; None when it has none for us.

        Raises HandoverFailed when it does not answer.
        """
        async with self._turn:
            if self.gone.is_set():
                return None
            data, descriptors = await self._ask(_TAKE + name.encode())
        if data != _HERE or len(descriptors) != 1:
            for descriptor in descriptors:
                os.close(descriptor)
            return None
        taken = socket.socket(fileno=descriptors[0])
        if not taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            taken.close()
            raise HandoverFailed("what was handed over does not listen")
        taken.setblocking(False)
        return taken

    def close(self) -> None:
        """Ask nothing any more."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()
        self.gone.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(HandoverFailed("the process before this one has ended"))

    async def _prove(self, key: bytes) -> None:
        nonce, _ = await self._ask(b"")
        ours = secrets.token_bytes(_NONCE)
        proof, _ = await self._ask(ours + _proof(key, b"successor", nonce, ours))
        if not hmac.compare_digest(proof, _proof(key, b"predecessor", nonce, ours)):
            raise HandoverFailed("the process that offers it does not belong to this cluster")

    async def _ask(self, data: bytes) -> tuple[bytes, list[int]]:
        self._answer = self._loop.create_future()
        try:
            if data:
                self._socket.send(data)
            self._asked += 1
            async with asyncio.timeout(TIMEOUT):
                return await self._answer
        except TimeoutError:
            raise HandoverFailed(f"the process before this one did not answer within {TIMEOUT:g} s") from None
        except OSError as error:
            raise HandoverFailed("the process before this one has ended, or refused") from error
        finally:
            self._answer = None

    def _read(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, _LONGEST, 4, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, descriptors = b"", []
        self._heard += 1
        if not data:
            self.close()
        elif self._heard == self._asked and self._answer is not None and not self._answer.done():
            self._answer.set_result((data, descriptors))
        else:
            for descriptor in descriptors:
                os.close(descriptor)


def _proof(key: bytes, role: bytes, first: bytes, second: bytes) -> bytes:
    return hmac.digest(key, role + b"\0" + first + second, hashlib.sha256)


def _user_of(peer: socket.socket) -> int:
    """The user at the other end, as the kernel knows it."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
