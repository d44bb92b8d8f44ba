"""The providers of one host: which run here, and who is told of which link."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import structlog

from lattice import events, subjects
from lattice.background import Background
from lattice.claims import ClaimsError, ClaimsRefused, check_times
from lattice.control import ProviderDescription
from lattice.errors import Code, LatticeError, MalformedMessage, Unreachable
from lattice.events import Publish
from lattice.health import LinkStatus
from lattice.hostdata import HostData, NatsExtras
from lattice.links import LinkDefinition
from lattice.transport import Transport
from wasmhost.calls.holding import Holding
from wasmhost.configuration.config import HostConfig
from wasmhost.keys.cluster import Cluster
from wasmhost.keys.identity import Identity
from wasmhost.keys.sealing import Seal
from wasmhost.knowledge.metadata import Metadata
from wasmhost.policy.expiry import ClaimsClock, ExpiryWatch
from wasmhost.policy.gate import Gate
from wasmhost.policy.halted import EXPIRED, HaltedBook
from wasmhost.private_files import make_private_folder
from wasmhost.processes.leftovers import with_marks
from wasmhost.processes.process import child_environment
from wasmhost.starts import Starts
from wasmhost.supervision.link_telling import SETTLE, ask_link, publish_removal, request_link
from wasmhost.supervision.provider import SupervisedProvider
from wasmhost.supervision.provider_image import ProviderImages
from wasmhost.supervision.provider_login import ProviderLogin
from wasmhost.supervision.provider_users import LOOK_AGAIN, ProviderUsers
from wasmhost.supervision.surroundings import Surroundings, Timing

log = structlog.get_logger(__name__)

ALREADY_RUNNING: Final = "Provider with that link name is already running on this host"
NOT_RUNNING_UNDER_LINK: Final = "provider with that link name is not running"
_START_PATIENCE: Final = 1.5
"""Seconds that a command waits for a start that may be of its provider: clients wait 2 s for their answer."""


class ProviderSupervisor:
    """Starts, stops and describes the providers of this host."""

    def __init__(
        self,
        config: HostConfig,
        identity: Identity,
        metadata: Metadata,
        publish_event: Publish,
        transport: Transport,
        *,
        images: ProviderImages | None = None,
        holding: Holding | None = None,
        timing: Timing | None = None,
        gate: Gate | None = None,
        expiry: ExpiryWatch | None = None,
        halted: HaltedBook | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        """``holding``: the calls of this host's actors to providers; ``cluster``: the keys that providers get."""
        self._gate = gate or Gate()
        self._expiry = expiry or ExpiryWatch(ClaimsClock(), publish_event, identity.host_id)
        self._halted = halted or HaltedBook(publish_event, identity.host_id)
        self._config = config
        self._identity = identity
        self._metadata = metadata
        self._publish = publish_event
        self._transport = transport
        self._images = images or ProviderImages(config)
        self._providers: dict[tuple[str, str], SupervisedProvider] = {}
        self._handover_folder = _private(config.paths.shared / "handover")
        self._starts = Starts()
        self._leaving: set[SupervisedProvider] = set()
        """Those that finish what is under way; for commands and calls they are gone."""
        self._work = Background()
        self.on_change: Callable[[], None] = lambda: None
        """Called whenever a provider was taken up here, or given up."""
        self._login = ProviderLogin(config.providers, allow_anonymous=config.allow_anonymous_nats)
        if self._login.users is not None:
            self._work.begin(self._renew_users(self._login.users), "renew NATS users")
        self._cluster = cluster or Cluster(
            identity.cluster_keys, config.lattice, host_id=identity.host_id, provider_keys=config.provider_keys
        )
        self._cluster.running = lambda: tuple(self._providers)
        self._cluster.renew_providers = self.renew_keys
        self._surroundings = Surroundings(
            transport=transport,
            lattice=config.lattice,
            host_id=identity.host_id,
            publish=publish_event,
            links_of=self._links_of,
            host_data=self._host_data,
            check_login=self._login.check,
            keys_of=self._cluster.keys_of,
            permits=self._cluster.permits,
            environment=self._environment,
            folder=config.state_dir / "providers",
            holding=holding or Holding(),
            timing=timing or Timing(shutdown_delay=config.provider_shutdown_delay),
        )

    def check_start(self, reference: str, link_name: str) -> None:
        """Raise LatticeError, and publish ``provider_start_failed``, for a start that cannot succeed.

        What only the image could tell is not looked at: a command is acknowledged before files are read.
        """
        with self._telling_failure(reference, link_name):
            subjects.validate_link_name(link_name)
            image = self._images.known(reference)
            for provider in self._providers.values():
                same = provider.image.reference == reference if image is None else provider.key[0] == image.public_key
                if same and provider.link_name == link_name and not provider.failed_to_start:
                    raise LatticeError(ALREADY_RUNNING, code=Code.CONFLICT)

    async def start(
        self,
        reference: str,
        *,
        link_name: str = subjects.DEFAULT_LINK_NAME,
        configuration: str = "",
        annotations: Mapping[str, str] | None = None,
        predecessor: str = "",
        provider_id: str = "",
    ) -> SupervisedProvider:
        """Load a provider and begin to start it; what becomes of that shows in events and in its description.

        ``provider_id``: the key that the image must have; empty for any.
        ``predecessor``: the host from whose process of the same provider it takes over, where both are on one machine.
        Raises LatticeError, and publishes ``provider_start_failed``, when it cannot even be tried. A provider that
        has failed so far is replaced; one that is up is a conflict.
        """
        async with self._starts.begin(provider_id) as begun:
            with self._telling_failure(reference, link_name):
                subjects.validate_link_name(link_name)
                image = await self._images.load(reference)
                key = image.public_key, link_name
                begun.key = image.public_key
                if provider_id and image.public_key != provider_id:
                    raise LatticeError(
                        f"{reference} holds provider {image.public_key}, not {provider_id}", code=Code.CONFLICT
                    )
                present = self._providers.get(key)
                if present is not None and not present.failed_to_start:
                    raise LatticeError(ALREADY_RUNNING, code=Code.CONFLICT)
                await self._gate.permit_provider(image.claims, link_name)
                present = self._providers.get(key)
                if present is not None and not present.failed_to_start:
                    raise LatticeError(ALREADY_RUNNING, code=Code.CONFLICT)
                self._gate.revocations.check(image.claims)  # it may have been revoked meanwhile
        provider = SupervisedProvider(
            image,
            link_name=link_name,
            configuration=configuration,
            annotations=annotations or {},
            surroundings=self._surroundings,
            predecessor=predecessor,
        )
        self._providers[key] = provider
        self.on_change()
        self._halted.forget(*key)
        self._work.begin(self._begin(provider, present), f"start provider {provider.image.name}")
        return provider

    @contextlib.contextmanager
    def _telling_failure(self, reference: str, link_name: str) -> Iterator[None]:
        try:
            yield
        except LatticeError as error:
            self.tell_failure(error, reference, link_name)
            raise

    def tell_failure(self, error: LatticeError, reference: str, link_name: str) -> None:
        """Publish ``provider_start_failed``."""
        problem = error.problem if isinstance(error, ClaimsError) else None
        self._publish(
            *events.provider_start_failed(
                provider_ref=reference, link_name=link_name, error=str(error), code=error.code, problem=problem
            )
        )

    async def stop(self, provider_id: str, link_name: str, *, drain: float = 0.0) -> None:
        """Stop a provider and return when its process is gone. Raises LatticeError when it does not run here.

        ``drain``: seconds that what is under way may take; it is in the inventory meanwhile, as ``stopping``.
        """
        self.check_stop(provider_id, link_name)
        provider = self._providers.pop((provider_id, link_name), None)
        self._expiry.forget((provider_id, link_name))
        if provider is None:
            return
        self.on_change()
        self._leaving.add(provider)
        try:
            await provider.stop(drain=drain)
        finally:
            self._leaving.discard(provider)

    async def wait_started(self, provider_id: str, link_name: str) -> None:
        """Return when a start that may be of this provider is over, or soon: it is acknowledged before it is known."""
        key = provider_id, link_name
        await self._starts.wait_for(provider_id, lambda: key in self._providers, _START_PATIENCE)

    async def renew_keys(self) -> None:
        """Have every provider use the keys that it should have now; those that cannot learn them are started anew."""
        results = await asyncio.gather(*(each.renew_keys() for each in self), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                log.error("provider.renewal_failed", exc_info=result)

    def check_stop(self, provider_id: str, link_name: str) -> None:
        """Raise LatticeError when this provider runs here, but not under this link name.

        One that does not run here at all is no error, as on classic hosts.
        """
        if (provider_id, link_name) not in self._providers and any(key[0] == provider_id for key in self._providers):
            raise LatticeError(NOT_RUNNING_UNDER_LINK, code=Code.NOT_FOUND)

    async def close(self) -> None:
        """Stop all providers at once, in parallel."""
        providers, self._providers = [*self._providers.values(), *self._leaving], {}
        results = await asyncio.gather(*(provider.stop() for provider in providers), return_exceptions=True)
        for provider, result in zip(providers, results, strict=True):
            if isinstance(result, BaseException):
                log.error("provider.stop_failed", provider=provider.image.name, error=repr(result))
        await self._work.end()

    def find(self, provider_id: str, link_name: str) -> SupervisedProvider | None:
        return self._providers.get((provider_id, link_name))

    def __iter__(self) -> Iterator[SupervisedProvider]:
        return iter(self._providers.values())

    def descriptions(self) -> list[ProviderDescription]:
        """For the inventory, with our extras: state, error, links and restarts."""
        return [describe(provider) for provider in (*self._providers.values(), *self._leaving)]

    def sealed_configuration(self, provider_id: str, link_name: str) -> str | None:
        """The configuration that a provider was started with, for the hosts of this cluster; None without one.

        Raises LatticeError when it does not run here.
        """
        provider = self._providers.get((provider_id, link_name))
        if provider is None:
            raise LatticeError(f"provider {provider_id[:60]} does not run on this host", code=Code.NOT_FOUND)
        if not provider.configuration:
            return None
        return Seal(self._identity.cluster).close(_about(provider_id, link_name) + provider.configuration)

    def unsealed(self, sealed: str, provider_id: str, link_name: str) -> str:
        """The configuration that another host of this cluster has sealed. Raises LatticeError."""
        try:
            text = Seal(self._identity.cluster).open(sealed)
        except MalformedMessage:
            text = ""
        about = _about(provider_id, link_name)
        if not text.startswith(about):
            raise LatticeError(
                "the sealed configuration is not from a host of this cluster, or not about this provider; start the "
                "provider with its configuration: wasmhost start provider --config",
                code=Code.NOT_AUTHORIZED,
            )
        return text.removeprefix(about)

    def failure_of(self, provider_id: str, link_name: str) -> str:
        """Why a provider of this host cannot serve just now; empty when it can, or when it is not one of ours."""
        provider = self._providers.get((provider_id, link_name))
        return "" if provider is None or provider.running else provider.error

    def stalled(self, provider_id: str, link_name: str) -> str:
        """Why a call to a provider of this host need not be tried; empty when it may be."""
        provider = self._providers.get((provider_id, link_name))
        return "" if provider is None else provider.stalled

    async def put_link(self, link: LinkDefinition) -> LinkStatus | None:
        """Tell a link's provider, wherever it runs; how that went, None when it did not say within the link timeout.

        Raises Unreachable when it runs nowhere.
        """
        provider = self._providers.get((link.provider_id, link.link_name))
        if provider is not None:
            return await provider.put_link(link)
        return await ask_link(self._transport, self._config.lattice, link, self._surroundings.timing.link_timeout)

    def push_link(self, link: LinkDefinition) -> None:
        """Tell a link's provider, without waiting here."""
        self._work.begin(self._push_link(link), "tell of a link")

    async def _push_link(self, link: LinkDefinition) -> None:
        with contextlib.suppress(Unreachable):
            await self.put_link(link)

    def repeat_link(self, link: LinkDefinition) -> None:
        """Tell a link's provider once more, of which it says that it does not know it; without waiting here."""
        self._work.begin(request_link(self._transport, self._config.lattice, link, SETTLE), "repeat a link")

    def delete_link(self, link: LinkDefinition) -> None:
        """Tell all providers of that key and link name that the link is gone, without waiting here."""
        provider = self._providers.get((link.provider_id, link.link_name))
        if provider is not None:
            self._work.begin(provider.delete_link(link), "tell of a link that is gone")
        else:
            publish_removal(self._transport, self._config.lattice, link)

    async def _begin(self, provider: SupervisedProvider, replaced: SupervisedProvider | None) -> None:
        if replaced is not None:
            await replaced.stop(quietly=True)
        await self._cluster.announce(*provider.key)
        if self._providers.get(provider.key) is provider:  # it may have been stopped meanwhile
            provider.start()
            self._watch_expiry(provider)
            await self._metadata.put_claims(provider.image.claims.as_metadata())
            await self._metadata.put_reference(provider.image.reference, provider.image.public_key)

    def _watch_expiry(self, provider: SupervisedProvider) -> None:
        claims = provider.image.claims

        def expired() -> None:
            try:
                check_times(claims, self._expiry.clock())
            except ClaimsRefused as error:
                self.halt(provider, problem=EXPIRED, error=str(error))

        self._expiry.watch(provider.key, claims, expired)

    def halt(self, provider: SupervisedProvider, *, problem: str, error: str) -> None:
        """Begin to stop a provider that may not run any more; words as in :mod:`wasmhost.policy.halted`."""
        if self._providers.get(provider.key) is not provider:
            return
        claims, reference = provider.image.claims, provider.image.reference
        log.warning("provider.halted", provider=claims.name, provider_id=claims.subject, problem=problem, reason=error)
        del self._providers[provider.key]
        self.on_change()
        self._expiry.forget(provider.key)
        self._halted.note(claims, reference=reference, problem=problem, error=error, link_name=provider.link_name)
        self._work.begin(provider.stop(reason=error), f"halt of {provider.image.name}")

    def _environment(self, provider: SupervisedProvider, folder: Path) -> dict[str, str]:
        allowed = child_environment(os.environ, home=folder, ours=provider.image.ours)
        return with_marks(allowed, host=self._config.state_dir, instance=provider.instance_id)

    def _links_of(self, provider_id: str, link_name: str) -> list[LinkDefinition]:
        return self._metadata.links.for_provider(provider_id, link_name)  # of the snapshot of this moment

    def _host_data(self, provider: SupervisedProvider) -> bytes:
        config, keys = self._config, self._cluster.keys_of(*provider.key)
        endpoint, who = self._login.of(provider.image.public_key, ours=provider.image.ours)
        return HostData(
            host_id=self._identity.host_id,
            lattice_rpc_prefix=config.lattice,
            link_name=provider.link_name,
            lattice_rpc_user_jwt=who.jwt,
            lattice_rpc_user_seed=who.seed,
            lattice_rpc_url=endpoint.url,
            js_domain=config.js_domain,
            provider_key=provider.image.public_key,
            invocation_seed=keys.key.seed,
            env_values={},
            instance_id=provider.instance_id,
            link_definitions=tuple(self._links_of(*provider.key)),
            cluster_issuers=keys.issuers,
            config_json=provider.configuration or None,
            default_rpc_timeout_ms=round(config.rpc_timeout * 1000),
            structured_logging=True,
            log_level=self._log_level(provider),
            exit_on_stdin_close=provider.image.ours,
            nats=self._login.extras(endpoint) if provider.image.ours else NatsExtras(),
            handover_folder=str(self._handover_folder) if provider.image.ours and self._handover_folder else "",
            predecessor=provider.predecessor,
        ).encode()

    async def _renew_users(self, users: ProviderUsers) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN)
            await asyncio.to_thread(users.renew, {key for key, _ in self._providers})

    def _log_level(self, provider: SupervisedProvider) -> str | None:
        if not provider.image.ours and os.environ.get("RUST_LOG"):
            return None  # classic libraries read the variable only where no level is given
        return "warn" if self._config.log_level == "warning" else self._config.log_level


def _private(folder: Path) -> Path | None:
    """``folder``, made for this user alone; None, with a warning, where that is impossible."""
    try:
        make_private_folder(folder)
    except LatticeError as error:
        log.warning("provider.no_handover", reason=str(error))
        return None
    return folder


def _about(provider_id: str, link_name: str) -> str:
    """Stands in front of a configuration that is sealed, so that it serves no other provider."""
    return f"{provider_id} {link_name}\n"


def describe(provider: SupervisedProvider) -> ProviderDescription:
    """One provider for the inventory."""
    return ProviderDescription(
        id=provider.image.public_key,
        image_ref=provider.image.reference,
        contract_id=provider.image.contract_id,
        link_name=provider.link_name,
        name=provider.image.name,
        revision=provider.image.claims.revision,
        annotations=provider.annotations,
        state=provider.condition.value,
        error=provider.error,
        links={
            actor: {"state": status.state.value, "reason": status.reason} for actor, status in provider.links.items()
        },
        restarts=provider.restarts,
        instance_id=provider.instance_id,
    )
