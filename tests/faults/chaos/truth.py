"""Is what hosts say about themselves what really runs?"""

from __future__ import annotations

from lattice.inventory import Inventory
from tests.faults.chaos.world import Place, World
from tests.support.daemons import processes_with


def untruths(world: World) -> list[str]:
    """What is not as it is said, or said to be otherwise than it is meant to be; empty when all is well."""
    found: list[str] = []
    inventories = world.inventories()
    known: set[int] = set()
    for place in world.places:
        name = place.daemon.name
        inventory = inventories.get(name)
        if not place.daemon.running or inventory is None:
            found.append(f"{name} does not answer")
            continue
        known |= {place.daemon.pid, *(process.pid for process in place.daemon.providers().values())}
        found += [f"{name}: {what}" for what in (*_providers(place, inventory), *_actors(world, place, inventory))]
    strangers = {process for process in processes_with(f"HOME={world.folder}") if process.pid not in known}
    found += [f"nobody's process: {process.command}" for process in strangers if "wasmhost host" not in process.command]
    return found


def _providers(place: Place, inventory: Inventory) -> list[str]:
    said = {each.instance_id: each for each in inventory.providers}
    real = place.daemon.providers()
    found = [f"says that {said[each].name} runs, which does not" for each in said.keys() - real.keys()]
    found += [f"runs {real[each].command}, and does not say so" for each in real.keys() - said.keys()]
    found += [f"{each.name} is {each.state}: {each.error}" for each in said.values() if each.state != "ready"]
    wanted = sorted(place.wanted.providers)
    if (present := sorted((each.image_ref or "", each.link_name) for each in said.values())) != wanted:
        found.append(f"runs {present}, is meant to run {wanted}")
    return found


def _actors(world: World, place: Place, inventory: Inventory) -> list[str]:
    found = []
    instances = {actor.id: actor for actor in inventory.actors}
    actor = instances.pop(world.actor, None)
    count = len(actor.instances) if actor else 0
    if count != place.wanted.instances:
        found.append(f"{count} instances, is meant to have {place.wanted.instances}")
    if actor and {each.revision for each in actor.instances} != {world.revision}:
        found.append(f"revision {[each.revision for each in actor.instances]}, is meant to have {world.revision}")
    found += [f"runs the actor {each}, is not meant to" for each in instances]
    return found
