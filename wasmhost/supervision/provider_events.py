"""What the lattice is told of one provider: it started, could not start, stopped, is well or is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lattice import events
from wasmhost.supervision.health_news import HealthNews
from wasmhost.supervision.provider_image import ProviderImage
from wasmhost.supervision.surroundings import Surroundings


class ProviderEvents:
    """Publishes for one provider key and link name."""

    def __init__(
        self, image: ProviderImage, *, link_name: str, annotations: Mapping[str, str], surroundings: Surroundings
    ) -> None:
        self._image = image
        self._link_name = link_name
        self._annotations = dict(annotations)
        self._around = surroundings
        self._news = HealthNews(surroundings.timing.health_interval)

    @property
    def healthy(self) -> bool:
        """What was told last."""
        return self._news.healthy

    def forget_health(self) -> None:
        """The process that was told of has ended."""
        self._news.forget()

    def started(self, instance_id: str) -> None:
        """A process of it is up."""
        self._publish(
            events.provider_started,
            **self._instance(instance_id),
            image_ref=self._image.reference,
            claims=self._image.claims.event_document(),
        )

    def stopped(self, instance_id: str, reason: str) -> None:
        """Its process has ended, on purpose or not."""
        self._publish(events.provider_stopped, **self._instance(instance_id), reason=reason)

    def start_failed(self, reason: str) -> None:
        """It did not come up."""
        self._around.publish(
            *events.provider_start_failed(provider_ref=self._image.reference, link_name=self._link_name, error=reason)
        )

    def health(self, failure: str, now: float, *, answered: bool) -> bool:
        """Tell what a health check found, as far as that is news; whether it was told as a failure.

        ``failure`` is empty when it is well; ``now`` is the time of the loop.
        """
        if (news := self._news.of(failure, now, answered=answered)) is None:
            return False
        build, members = news
        self._publish(build, **members)
        return build is events.health_check_failed

    def _publish(self, build: Callable[..., events.Built], **members: Any) -> None:
        self._around.publish(
            *build(
                public_key=self._image.public_key,
                link_name=self._link_name,
                contract_id=self._image.contract_id,
                **members,
            )
        )

    def _instance(self, instance_id: str) -> dict[str, Any]:
        return {
            "instance_id": instance_id,
            "annotations": self._annotations,
            "host_id": self._around.host_id,
        }
