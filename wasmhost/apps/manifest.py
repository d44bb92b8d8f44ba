"""Reading a manifest: the classic application manager's YAML (or JSON), checked completely before anything starts.

All problems are reported at once, each with file, line and column. What a classic manager would refuse is refused
here with the same meaning; two things it accepts silently are refused as well, since they never do what was meant:
unknown keys (it drops them) and an actor without a scaler (it never starts it).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lattice import subjects
from lattice.errors import MalformedMessage
from wasmhost.apps.application import (
    ActorComponent,
    Application,
    CapabilityComponent,
    LinkTrait,
    Mark,
    Scaler,
    Spread,
)
from wasmhost.apps.section import ManifestError, Problem, Problems, Section, compose, suggestion
from wasmhost.configuration.limits import LIMITS

__all__ = [
    "ActorComponent",
    "Application",
    "CapabilityComponent",
    "LinkTrait",
    "ManifestError",
    "Mark",
    "Problem",
    "Scaler",
    "Spread",
    "load",
    "load_all",
]

API_VERSION = "core.oam.dev/v1beta1"
_MAX_BYTES = 1024 * 1024
_MAX_IMAGE = 512
_MAX_INSTANCES = 65_535
"""Counts travel as 16 bit numbers on the control subjects."""
_NAME = re.compile(r"[-\w]+")
_SCALERS = ("spreadscaler", "daemonscaler")
_OURS = "wasmhost"
_DEFAULT_SCALER = Scaler("spreadscaler", 1)


def load(path: Path) -> Application:
    """Read one manifest; raises ManifestError with everything that is wrong with it."""
    problems = Problems(str(path))
    text = _read(problems, path)
    node = compose(problems, text) if text is not None else None
    problems.raise_any()
    assert node is not None
    application = _application(Section(problems, node, ""), path)
    problems.raise_any()
    return application


def load_all(paths: Iterable[Path]) -> tuple[Application, ...]:
    """Read several manifests that are to run together; raises one ManifestError with the problems of all."""
    found: list[Problem] = []
    applications: dict[str, Application] = {}
    for path in paths:
        try:
            application = load(path)
        except ManifestError as error:
            found.extend(error.problems)
            continue
        other = applications.setdefault(application.name, application)
        if other is not application:
            message = f"the name {application.name!r} is already taken by {other.file}"
            found.append(Problem(str(path), 0, 0, message, "give one of them another metadata.name"))
    if found:
        raise ManifestError(found)
    return tuple(applications.values())


def _read(problems: Problems, path: Path) -> str | None:
    where = Mark(problems.file)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        problems.add(where, (error.strerror or str(error)).lower(), "name a manifest such as manifests/echo.yaml")
        return None
    if len(data) > _MAX_BYTES:
        problems.add(where, f"larger than {_MAX_BYTES} bytes, which no manifest is")
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        problems.add(Mark(problems.file, line, column), "not UTF-8 text", "name a manifest, or save it as UTF-8")
        return None


def _application(root: Section, path: Path) -> Application:
    _expect(root, "apiVersion", API_VERSION)
    _expect(root, "kind", "Application")
    name = version = description = ""
    if metadata := root.section("metadata"):
        name = metadata.text("name", example="my-app")
        if name and not _NAME.fullmatch(name):
            metadata.problems.add(
                metadata.mark_of("name"),
                f"Manifest name {name} contains invalid characters",
                "use letters, digits, dashes and underscores",
            )
        annotations = metadata.texts("annotations")
        metadata.texts("labels")
        metadata.finish()
        version, description = annotations.get("version", ""), annotations.get("description", "")
        if version == "latest":
            metadata.problems.add(
                metadata.mark_of("annotations"), "A manifest with a version latest is not allowed", "write v0.0.1"
            )
    components: list[ActorComponent | CapabilityComponent] = []
    if spec := root.section("spec"):
        names: set[str] = set()
        for section in spec.sections("components"):
            called = section.text("name", example="echo")
            component = _component(section, called)
            if called and called in names:
                section.problems.add(section.mark_of("name"), f"Duplicate component name in manifest: {called}")
            names.add(called)
            section.finish()
            if component is not None:
                components.append(component)
        if spec.has("components") and not names:
            spec.problems.add(spec.mark_of("components"), "spec.components lists nothing to run")
        spec.finish()
        _check_together(root.problems, components, names)
    root.finish()
    return Application(name, version, description, path.absolute(), tuple(components))


def _expect(section: Section, key: str, value: str) -> None:
    found = section.text(key, example=value)
    if found and found != value:
        section.problems.add(section.mark_of(key), f"{key} is {found!r}", f"this reader knows {value!r}")


def _component(section: Section, name: str) -> ActorComponent | CapabilityComponent | None:
    kind = section.text("type", example="actor")
    if kind == "actor":
        return _actor(section, name)
    if kind == "capability":
        return _capability(section, name)
    section.section("properties")
    list(section.sections("traits", required=False))
    if kind:
        hint = suggestion(kind, ("actor", "capability"))
        section.problems.add(section.mark_of("type"), f"unknown component type {kind!r}", hint)
    return None


def _actor(section: Section, name: str) -> ActorComponent:
    image, mark = "", section.mark
    if properties := section.section("properties"):
        image, mark = _image(properties, "../actors/echo/echo_s.wasm"), properties.mark_of("image")
        properties.finish()
    scaler, links, bounds = _traits(section, links=True)
    if scaler is None:
        section.problems.add(
            section.mark, f"actor {name} has no scaler, so it would never start", "add a trait spreadscaler"
        )
    return ActorComponent(name, image, scaler or _DEFAULT_SCALER, links, mark, bounds)


def _capability(section: Section, name: str) -> CapabilityComponent:
    image = contract = link_name = ""
    config, mark = None, section.mark
    if properties := section.section("properties"):
        image, mark = _image(properties, "bundled:httpserver"), properties.mark_of("image")
        contract = properties.text("contract", example="wasmcloud:httpserver")
        link_name = properties.text("link_name", required=False)
        for key, value, check in (
            ("contract", contract, subjects.validate_contract),
            ("link_name", link_name, subjects.validate_link_name),
        ):
            try:
                if value:
                    check(value)
            except MalformedMessage as error:
                section.problems.add(properties.mark_of(key), str(error))
        config = properties.text_or_json("config")
        properties.finish()
    scaler, _, _ = _traits(section, links=False)
    link_name = link_name or subjects.DEFAULT_LINK_NAME
    return CapabilityComponent(name, image, contract, link_name, config, scaler or _DEFAULT_SCALER, mark)


def _image(properties: Section, example: str) -> str:
    image = properties.text("image", example=example)
    if len(image) > _MAX_IMAGE:
        properties.problems.add(properties.mark_of("image"), f"the image is longer than {_MAX_IMAGE} characters")
    return image


def _traits(section: Section, *, links: bool) -> tuple[Scaler | None, tuple[LinkTrait, ...], dict[str, int]]:
    scaler: Scaler | None = None
    linked: list[LinkTrait] = []
    bounds: dict[str, int] | None = None
    known = (*_SCALERS, "linkdef", _OURS) if links else _SCALERS
    for trait in section.sections("traits", required=False):
        kind = trait.text("type", example=known[0])
        if kind in _SCALERS:
            if scaler is not None:
                trait.problems.add(trait.mark, "a second scaler for one component", "remove one of them")
            scaler = _scaler(trait, kind)
        elif kind == "linkdef" and links:
            linked.append(_link(trait))
        elif kind == _OURS and links:
            if bounds is not None:
                trait.problems.add(trait.mark, f"a second trait {_OURS} for one component", "merge them")
            bounds = _limits(trait)
        else:
            trait.section("properties")
            if kind == "linkdef":
                message, hint = "a capability cannot have a linkdef", "move it to the actor that calls it"
                trait.problems.add(trait.mark_of("type"), message, hint)
            elif kind == _OURS:
                message, hint = "a capability has no limits", "they are set for actors"
                trait.problems.add(trait.mark_of("type"), message, hint)
            elif kind:
                trait.problems.add(trait.mark_of("type"), f"unknown trait {kind!r}", suggestion(kind, known))
        trait.finish()
    return scaler, tuple(linked), bounds or {}


def _scaler(trait: Section, kind: str) -> Scaler:
    properties = trait.section("properties")
    if properties is None:
        return Scaler(kind, 1)
    if not properties.has("replicas") and not properties.has("instances"):
        properties.problems.add(properties.mark, f"{properties.name}.replicas is missing", "for example replicas: 1")
    replicas = properties.count("replicas", default=1, maximum=_MAX_INSTANCES)
    instances = properties.count("instances", default=replicas, maximum=_MAX_INSTANCES)
    spread: list[Spread] = []
    for entry in properties.sections("spread", required=False):
        name = entry.text("name", example="east")
        if name in [other.name for other in spread]:
            entry.problems.add(entry.mark_of("name"), f"a second spread is called {name}", "give it another name")
        hint = "name a label and its value, or leave spread out for any host"
        requirements = entry.texts("requirements", required=True, hint_if_empty=hint)
        spread.append(Spread(name, requirements, entry.count("weight", default=100, maximum=2**31 - 1)))
        entry.finish()
    properties.finish()
    return Scaler(kind, instances, tuple(spread))


def _limits(trait: Section) -> dict[str, int]:
    """The limits in our own trait. Its members must not be called as those of other traits: a classic manager, which
    tells traits apart by their members, would take it for one of them."""
    found: dict[str, int] = {}
    properties = trait.section("properties")
    section = properties.section("limits", required=False) if properties is not None else None
    if properties is not None:
        properties.finish()
    if section is None:
        return found
    for limit in LIMITS:
        number = section.count(limit.name, default=-1, maximum=limit.most)
        if number < 0:
            continue
        found[limit.name] = number
        if problem := limit.problem(number):
            section.problems.add(section.mark_of(limit.name), f"{section.name}.{limit.name}: {problem}")
    section.finish()
    return found


def _link(trait: Section) -> LinkTrait:
    properties = trait.section("properties")
    if properties is None:
        return LinkTrait("", {}, trait.mark)
    target = properties.text("target", example="httpserver")
    link = LinkTrait(target, properties.texts("values"), properties.mark_of("target"))
    properties.finish()
    return link


def _check_together(
    problems: Problems, components: Sequence[ActorComponent | CapabilityComponent], names: set[str]
) -> None:
    """The rules between components. Each text begins as the classic manager's does."""
    capabilities = [part.name for part in components if isinstance(part, CapabilityComponent)]
    images: set[str] = set()
    offered: set[tuple[str, str]] = set()
    for part in components:
        if isinstance(part, CapabilityComponent):
            # Tags are ignored: two versions of one provider under one link name would answer the same subject.
            key = (_untagged(part.image), part.link_name)
            if part.image and key in offered:
                message = f"Duplicate image reference {part.image} to link name {part.link_name} in manifest"
                problems.add(part.mark, message, "give one of them another link_name")
            offered.add(key)
            continue
        if part.image and part.image in images:
            problems.add(part.mark, f"Duplicate image reference in manifest: {part.image}", "raise replicas instead")
        images.add(part.image)
        targets: set[str] = set()
        for link in part.links:
            if link.target in targets:
                message = f"Duplicate target {link.target} for component {part.name} linkdef trait in manifest"
                problems.add(link.mark, message, "merge their values")
            targets.add(link.target)
            if link.target and link.target not in capabilities:
                message = f"The following capability component(s) are missing from the manifest: {link.target}"
                hint = f"{link.target} is an actor" if link.target in names else suggestion(link.target, capabilities)
                problems.add(link.mark, message, hint if capabilities else "add a component of type capability")


def _untagged(image: str) -> str:
    head, colon, tag = image.rpartition(":")
    return head if colon and "/" in head and "/" not in tag else image
