"""What a command may not do to an actor that runs, in the words of classic hosts where those have some."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from lattice.claims import ActorClaims
from lattice.errors import Code, LatticeError
from wasmhost.actors.entry import ActorEntry
from wasmhost.actors.scale import Annotations
from wasmhost.calls.directory import RunningActor
from wasmhost.configuration import limits
from wasmhost.images.actor_file import ActorImage

log = structlog.get_logger()


class ActorError(LatticeError):
    """A command on an actor cannot be carried out; ``code`` says of which kind the reason is."""


def require_same_image(running: RunningActor, image: ActorImage) -> None:
    """Refuse another reference, or other content, for an actor that runs: that is what an update is for."""
    if running.reference != image.reference:
        raise other_reference(running, image.reference)
    if running.digest != image.digest:
        raise ActorError(
            f"Cannot start new instance of {running.key} from ref '{image.reference}': the file has changed "
            f"since the running instances started; stop them first: wasmhost stop actor {running.key}",
            code=Code.CONFLICT,
        )


def require_digest(digest: str, found: ActorImage | RunningActor | None) -> None:
    """Refuse a module that is not the very one which a command means, whatever file holds it."""
    if found is not None and found.digest != digest:
        raise ActorError(
            f"{found.reference} holds another module here (sha256 {found.digest[:12]}…) than the one that is meant "
            f"(sha256 {digest[:12]}…); copy that file to this host",
            code=Code.CONFLICT,
        )


def require_same_limits(running: RunningActor, annotations: Annotations) -> None:
    """All instances of an actor share one pool, so limits count for all of them. Saying nothing is no wish."""
    numbers = limits.from_annotations(annotations)
    if numbers and limits.changed(running.pool.limits, numbers) != running.pool.limits:
        raise ActorError(
            f"{running.key} runs already on this host, with other limits than "
            f"{', '.join(f'{name} {number}' for name, number in numbers.items())}; "
            f"stop it first: wasmhost stop actor {running.key}",
            code=Code.CONFLICT,
        )


def other_reference(running: RunningActor, reference: str) -> ActorError:
    """The refusal of a second reference for one actor."""
    return ActorError(
        f"Cannot start new instance of {running.key} from ref '{reference}', it is already running with "
        f"different reference. To upgrade an actor, use live update. (running: '{running.reference}')",
        code=Code.CONFLICT,
    )


def check_downgrade(image: ActorImage, known: Mapping[str, str] | None, *, refuse: bool) -> None:
    """Notice a start of an older revision than the lattice has seen of this actor and account.

    An old revision may have holes that a newer one closed. Going back is also what a deployer does on purpose, so it
    is refused only where the host was told to.
    """
    claims = image.claims
    if known is None or known.get("iss") != claims.issuer:
        return
    revision = known.get("rev", "")
    if not (revision.isascii() and revision.isdigit()) or claims.revision >= int(revision):
        return
    log.warning("actor.downgraded", actor=claims.subject, revision=claims.revision, known=int(revision), refused=refuse)
    if refuse:
        raise ActorError(
            f"{image.reference} holds revision {claims.revision} of {claims.subject}, older than revision {revision}, "
            "which has run in this lattice; start a newer one, or a host without refuse_downgrades",
            code=Code.CONFLICT,
        )


def require_stoppable(entry: ActorEntry | None, key: str, annotations: Annotations) -> ActorEntry:
    """The running actor with instances that carry at least these annotations."""
    if entry is None:
        raise ActorError(f"actor is not running on this host: {key[:60]}", code=Code.NOT_RUNNING)
    if not entry.scale.matches(annotations):
        raise ActorError("no actors with matching annotations found to stop", code=Code.NOT_RUNNING)
    return entry


def require_update(entry: ActorEntry | None, image: ActorImage, annotations: Annotations) -> ActorEntry:
    """The running actor that ``image`` is a newer revision of, or renewed claims for; refuses everything else."""
    key, revision = image.claims.subject, image.claims.revision
    if entry is None:
        raise ActorError(f"actor not found: {key} is not running on this host", code=Code.NOT_RUNNING)
    if annotations and not entry.scale.count(annotations):
        raise ActorError("actor instance with matching annotations not found", code=Code.NOT_RUNNING)
    present = entry.actor.claims.revision
    if revision <= present and not is_renewal(entry.actor.claims, image.claims):
        raise ActorError(
            f"{image.reference} holds revision {revision}, which is not newer than the running {present}; "
            "sign it with a higher revision, or stop the actor and start this one",
            code=Code.CONFLICT,
        )
    return entry


def is_renewal(present: ActorClaims, new: ActorClaims) -> bool:
    """Whether ``new`` is a later token of the same account for the same code in the same revision."""
    same = (present.hash, present.issuer, present.revision) == (new.hash, new.issuer, new.revision)
    return same and new.token_id != present.token_id and new.issued_at >= present.issued_at
