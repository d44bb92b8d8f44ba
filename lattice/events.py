"""What hosts tell the lattice: a builder for each event, which returns its name and data.

The data are exactly the members that application managers and command lines of the classic lattice read; members of our
own (``code``, ``problem``, ``error`` of a failed link) come on top. :mod:`lattice.cloudevents` puts them in envelopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lattice.links import LinkDefinition

Built = tuple[str, dict[str, Any]]
"""Name and data of an event."""

Publish = Callable[[str, Mapping[str, Any]], None]
"""Publishes one event, ``(name, data)``; never waits, never raises."""


def _failure(data: dict[str, Any], error: str, code: str | None, problem: str | None) -> dict[str, Any]:
    data["error"] = error
    if code:
        data["code"] = str(code)
    if problem:
        data["problem"] = str(problem)
    return data


# ---- hosts


def host_started(*, labels: Mapping[str, str], friendly_name: str, uptime_seconds: int, version: str) -> Built:
    return "host_started", {
        "labels": dict(labels),
        "friendly_name": friendly_name,
        "uptime_seconds": uptime_seconds,
        "version": version,
    }


def host_stopped(*, labels: Mapping[str, str]) -> Built:
    return "host_stopped", {"labels": dict(labels)}


def host_heartbeat(
    *,
    actors: Mapping[str, int],
    providers: Sequence[Mapping[str, str]],
    labels: Mapping[str, str],
    friendly_name: str,
    version: str,
    uptime_seconds: int,
    uptime_human: str,
) -> Built:
    """In the form that every application manager reads: ``actors`` maps public key to number of instances,
    ``providers`` lists public_key, link_name and contract_id; ``version`` must be a semantic version."""
    return "host_heartbeat", {
        "actors": dict(actors),
        "providers": [dict(provider) for provider in providers],
        "labels": dict(labels),
        "friendly_name": friendly_name,
        "version": version,
        "uptime_seconds": uptime_seconds,
        "uptime_human": uptime_human,
    }


# ---- actors: the singular events once per instance, the plural ones once per command


def actor_started(
    *, public_key: str, image_ref: str, instance_id: str, annotations: Mapping[str, str], claims: Mapping[str, Any]
) -> Built:
    """``image_ref`` exactly as the command spelled it, or its sender never recognises the event."""
    return "actor_started", {
        "public_key": public_key,
        "image_ref": image_ref,
        "api_version": "n/a",
        "instance_id": instance_id,
        "annotations": dict(annotations),
        "claims": dict(claims),
    }


def actor_stopped(*, public_key: str, instance_id: str, annotations: Mapping[str, str]) -> Built:
    return "actor_stopped", {
        "public_key": public_key,
        "instance_id": instance_id,
        "annotations": dict(annotations),
    }


def actor_start_failed(*, actor_ref: str, error: str, code: str | None = None, problem: str | None = None) -> Built:
    """``actor_ref`` is the reference as requested."""
    return "actor_start_failed", _failure({"actor_ref": actor_ref}, error, code, problem)


def actors_started(
    *,
    public_key: str,
    image_ref: str,
    annotations: Mapping[str, str],
    host_id: str,
    claims: Mapping[str, Any],
    count: int,
) -> Built:
    """All annotations of the command and no others must come back here."""
    return "actors_started", {
        "public_key": public_key,
        "image_ref": image_ref,
        "annotations": dict(annotations),
        "host_id": host_id,
        "claims": dict(claims),
        "count": count,
    }


def actors_start_failed(
    *,
    public_key: str,
    image_ref: str,
    annotations: Mapping[str, str],
    host_id: str,
    error: str,
    code: str | None = None,
    problem: str | None = None,
) -> Built:
    """``public_key`` is empty when the file was never read."""
    data: dict[str, Any] = {
        "public_key": public_key,
        "image_ref": image_ref,
        "annotations": dict(annotations),
        "host_id": host_id,
    }
    return "actors_start_failed", _failure(data, error, code, problem)


def actors_stopped(
    *, host_id: str, public_key: str, image_ref: str, count: int, remaining: int, annotations: Mapping[str, str]
) -> Built:
    return "actors_stopped", {
        "host_id": host_id,
        "public_key": public_key,
        "image_ref": image_ref,
        "count": count,
        "remaining": remaining,
        "annotations": dict(annotations),
    }


def actor_scaled(
    *,
    public_key: str,
    image_ref: str,
    annotations: Mapping[str, str],
    host_id: str,
    claims: Mapping[str, Any],
    max_instances: int,
) -> Built:
    """After a ``scale`` that changed something: the new number of instances with these annotations."""
    return "actor_scaled", {
        "public_key": public_key,
        "claims": dict(claims),
        "annotations": dict(annotations),
        "host_id": host_id,
        "image_ref": image_ref,
        "max_instances": max_instances,
    }


def actor_scale_failed(
    *,
    public_key: str,
    image_ref: str,
    annotations: Mapping[str, str],
    host_id: str,
    max_instances: int,
    error: str,
    code: str | None = None,
    problem: str | None = None,
) -> Built:
    """With ``actor_ref`` on top, which the command line of that generation insists on."""
    data: dict[str, Any] = {
        "public_key": public_key,
        "annotations": dict(annotations),
        "host_id": host_id,
        "image_ref": image_ref,
        "actor_ref": image_ref,
        "max_instances": max_instances,
    }
    return "actor_scale_failed", _failure(data, error, code, problem)


def actor_updated(*, public_key: str, revision: int, instance_id: str) -> Built:
    """One instance runs the new revision."""
    return "actor_updated", {"public_key": public_key, "revision": revision, "instance_id": instance_id}


def actor_update_failed(
    *,
    public_key: str,
    revision: int,
    instance_id: str,
    reason: str,
    code: str | None = None,
) -> Built:
    """One instance stays as it was; ``revision`` is the one that could not be started."""
    data: dict[str, Any] = {
        "public_key": public_key,
        "revision": revision,
        "instance_id": instance_id,
        "reason": reason,
    }
    if code:
        data["code"] = str(code)
    return "actor_update_failed", data


# ---- providers


def provider_started(
    *,
    public_key: str,
    image_ref: str,
    link_name: str,
    contract_id: str,
    instance_id: str,
    annotations: Mapping[str, str],
    claims: Mapping[str, Any],
    host_id: str,
) -> Built:
    return "provider_started", {
        "host_id": host_id,
        "public_key": public_key,
        "image_ref": image_ref,
        "link_name": link_name,
        "contract_id": contract_id,
        "instance_id": instance_id,
        "annotations": dict(annotations),
        "claims": dict(claims),
    }


def provider_stopped(
    *,
    public_key: str,
    link_name: str,
    contract_id: str,
    instance_id: str,
    annotations: Mapping[str, str],
    reason: str,
    host_id: str,
) -> Built:
    return "provider_stopped", {
        "host_id": host_id,
        "public_key": public_key,
        "link_name": link_name,
        "contract_id": contract_id,
        "instance_id": instance_id,
        "annotations": dict(annotations),
        "reason": reason,
    }


def provider_start_failed(
    *, provider_ref: str, link_name: str, error: str, code: str | None = None, problem: str | None = None
) -> Built:
    data: dict[str, Any] = {"provider_ref": provider_ref, "link_name": link_name}
    return "provider_start_failed", _failure(data, error, code, problem)


def health_check_passed(*, public_key: str, link_name: str, contract_id: str) -> Built:
    """From unhealthy to healthy."""
    return "health_check_passed", _health(public_key, link_name, contract_id)


def health_check_failed(*, public_key: str, link_name: str, contract_id: str, error: str = "") -> Built:
    """From healthy to unhealthy, or unhealthy for another reason; ``error`` says why."""
    data: dict[str, Any] = _health(public_key, link_name, contract_id)
    if error:
        data["error"] = error
    return "health_check_failed", data


def health_check_status(*, public_key: str, link_name: str, contract_id: str) -> Built:
    """No change since the last check."""
    return "health_check_status", _health(public_key, link_name, contract_id)


def _health(public_key: str, link_name: str, contract_id: str) -> dict[str, Any]:
    return {"public_key": public_key, "link_name": link_name, "contract_id": contract_id}


# ---- claims of what runs; ours


def claims_expiring(*, public_key: str, name: str, host_id: str, expires_at: int, seconds_left: int) -> Built:
    """What runs under these claims will be stopped at ``expires_at``, in seconds since the epoch."""
    return "claims_expiring", {
        "public_key": public_key,
        "name": name,
        "host_id": host_id,
        "expires_at": expires_at,
        "seconds_left": seconds_left,
    }


def claims_refused(*, public_key: str, name: str, host_id: str, problem: str, error: str) -> Built:
    """What ran is stopped: its claims have expired (``expired``), were revoked (``revoked``), or the policy service
    took back what it had permitted (``denied``)."""
    return "claims_refused", {
        "public_key": public_key,
        "name": name,
        "host_id": host_id,
        "problem": problem,
        "error": error,
    }


# ---- links


def linkdef_set(link: LinkDefinition, changed_us: int | None = None) -> Built:
    """``changed_us``: ours, only where no bucket orders the changes: when it was made, in µs since the epoch."""
    return "linkdef_set", _link(link, changed_us)


def linkdef_deleted(link: LinkDefinition, changed_us: int | None = None) -> Built:
    """``changed_us`` as in :func:`linkdef_set`."""
    return "linkdef_deleted", _link(link, changed_us)


def _link(link: LinkDefinition, changed_us: int | None) -> dict[str, Any]:
    return link.to_json() if changed_us is None else {**link.to_json(), "changed_us": changed_us}


# ---- references and configuration


def refmap_set(*, oci_url: str, public_key: str) -> Built:
    """The lattice knows now which key an image reference stands for."""
    return "refmap_set", {"oci_url": oci_url, "public_key": public_key}


def config_set(*, entity_id: str, key: str) -> Built:
    return "config_set", {"entity_id": entity_id, "key": key}


def config_deleted(*, entity_id: str, key: str) -> Built:
    return "config_deleted", {"entity_id": entity_id, "key": key}


def issuer_mismatch(*, issuer: str, origin: str, public_key: str, reason: str, count: int) -> Built:
    """Ours: a key that is known here signed a call of somebody else. ``public_key``: the called actor; ``count``: all
    such calls since the host started."""
    return "issuer_mismatch", {
        "issuer": issuer,
        "origin": origin,
        "public_key": public_key,
        "error": reason,
        "count": count,
    }


def permission_violation(*, connection: str, operation: str, subject: str, queue: str = "") -> Built:
    """Ours: the NATS server refused something to this host. ``connection``: control or rpc; ``operation``: publish or
    subscription; subject and queue group are in lower case."""
    return "permission_violation", {
        "connection": connection,
        "operation": operation,
        "subject": subject[:200],
        "queue": queue[:200] or None,
    }


# ---- single calls, on a subject of their own


def invocation_succeeded(
    *,
    source: Mapping[str, Any],
    dest: Mapping[str, Any],
    operation: str,
    size: int,
    elapsed_ms: float,
    source_host: str,
    dest_host: str | None,
) -> Built:
    """``size``: bytes of the argument. Time and hosts are ours."""
    return "invocation_succeeded", {
        "source": dict(source),
        "dest": dict(dest),
        "operation": operation,
        "bytes": size,
        "elapsed_ms": elapsed_ms,
        "source_host": source_host,
        "dest_host": dest_host,
    }


def invocation_failed(*, error: str, **members: Any) -> Built:
    """The members of :func:`invocation_succeeded`, with the reason (ours)."""
    _, data = invocation_succeeded(**members)
    return "invocation_failed", {**data, "error": error}
