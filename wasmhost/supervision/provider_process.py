"""One process of a provider: started with its host data, asked to leave, then made to, with all that it started."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lattice import subjects
from lattice.errors import Code, LatticeError, Unreachable
from wasmhost.private_files import StateError, make_private_folder
from wasmhost.processes.leftovers import INSTANCE_MARK, end_leftovers
from wasmhost.processes.process import ChildProcess
from wasmhost.supervision.provider_image import ProviderImage
from wasmhost.supervision.surroundings import Surroundings

_CANNOT_START: Final = {
    errno.ENOEXEC: "; is it a program for this machine?",
    errno.EACCES: "; do the file system of the state folder and its permissions let programs run?",
}


class ProviderProcess:
    """A process that was started. Create it with :meth:`spawn`."""

    def __init__(
        self,
        child: ChildProcess,
        image: ProviderImage,
        *,
        link_name: str,
        instance_id: str,
        surroundings: Surroundings,
        log: Any,
    ) -> None:
        """``log``: the structured logger that names the provider."""
        self._child = child
        self._image = image
        self._link_name = link_name
        self._instance_id = instance_id
        self._around = surroundings
        self._log = log

    @classmethod
    async def spawn(
        cls,
        image: ProviderImage,
        *,
        link_name: str,
        instance_id: str,
        surroundings: Surroundings,
        environment: Callable[[Path], Mapping[str, str]],
        host_data: Callable[[], bytes],
        on_line: Callable[[str], None],
        log: Any,
    ) -> ProviderProcess:
        """Start the program of ``image`` in a private work folder.

        ``environment`` makes the variables for that folder, ``host_data`` the first line for its standard input,
        ``on_line`` gets each line of its output. Raises LatticeError, in words that help, when it cannot be started.
        """
        folder = surroundings.folder / f"{image.public_key}-{link_name}"
        try:
            if folder.is_symlink() or not folder.is_dir():  # one that is there serves on a disk that became read-only
                make_private_folder(folder)
        except StateError as error:
            raise LatticeError(f"its work folder cannot be made: {error}") from error
        try:
            child = await ChildProcess.spawn(
                image.command,
                environment=environment(folder),
                folder=folder,
                first_line=host_data(),
                on_line=on_line,
                dies_with_parent=not image.ours,
                confined=not image.ours,
            )
        except OSError as error:
            name = image.reference if image.program is not None else image.command[0]
            hint = _CANNOT_START.get(error.errno or 0, "") if image.program is not None else ""
            raise LatticeError(f"cannot start {name}: {error.strerror or error}{hint}") from error
        return cls(child, image, link_name=link_name, instance_id=instance_id, surroundings=surroundings, log=log)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.running

    async def wait(self) -> int:
        """Wait for the end; see :meth:`ChildProcess.wait`."""
        return await self._child.wait()

    def write(self, line: bytes) -> None:
        """Write to its standard input, without waiting."""
        self._child.write(line)

    async def end(self, *, drain: float = 0.0, hurry: asyncio.Event) -> None:
        """Ask it to shut down, then make it; ``drain`` seconds for what is under way, fewer when ``hurry`` is set."""
        timing = self._around.timing
        endings = {asyncio.create_task(self._child.wait()), asyncio.create_task(hurry.wait())}
        asking = asyncio.create_task(self._request_shutdown(drain))
        try:
            # A process that just ended answers nothing; where other hosts run this provider, too, nobody says so.
            await asyncio.wait({asking, *endings}, return_when=asyncio.FIRST_COMPLETED)
            patience = timing.shutdown_delay + (drain if self._image.ours else 0)
            await asyncio.wait(endings, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (asking, *endings):
                task.cancel()
        await self.terminate()

    async def terminate(self) -> None:
        """Make it end without a request, which it would not hear before it is up."""
        if self._child.running:
            await self._child.terminate(grace=self._around.timing.terminate_grace)

    async def kill(self) -> None:
        """SIGKILL to what is left of its group."""
        await self._child.kill()

    async def kill_all(self) -> None:
        """As :meth:`kill`, and to all that a program of somebody else has started and that left the group."""
        await self._child.kill()
        if self._image.ours:
            return
        ended = await asyncio.to_thread(end_leftovers, INSTANCE_MARK, self._instance_id)
        if ended:
            self._log.warning("provider.left_processes", pids=ended, hint="they had outlived it and were killed")

    async def _request_shutdown(self, drain: float) -> None:
        subject = subjects.shutdown(self._around.lattice, self._image.public_key, self._link_name)
        document: dict[str, Any] = {"host_id": self._around.host_id}
        if drain:
            document["drain_ms"] = round(drain * 1000)
        body = json.dumps(document).encode()
        try:
            await self._around.transport.request(subject, body, timeout=self._around.timing.health_timeout)
        except LatticeError as error:
            if not (isinstance(error, Unreachable) and error.code is Code.NO_RESPONDERS):
                self._log.info("provider.shutdown_unanswered", error=str(error))
