"""docs/actors.md, followed from top to bottom by somebody who types what it says."""

from __future__ import annotations

from tests.support.pages import Terminal, steps


def test_the_page_works_as_it_is_written(terminal: Terminal) -> None:
    printed = terminal.follow("actors")
    health = next(output for line, output in printed.items() if "Actor.HealthRequest" in line)
    assert '"healthy": true' in health
    inspected = printed["wasmhost claims inspect hello/visits_s.wasm"]
    assert "demo/visits" in inspected
    assert "wasmcloud:keyvalue" in inspected
    assert (terminal.folder / "home" / "actor-keys" / "account.nk").stat().st_mode & 0o777 == 0o600
    assert terminal.up is not None
    assert terminal.up.stop() == 0, terminal.up.output


def test_every_block_of_the_page_is_understood() -> None:
    found = steps("actors")
    assert [step.file for step in found if step.file] == ["hello/hello.rs", "hello/hello.yaml", "hello/visits.rs"]
    assert {step.language for step in found} == {"sh", "text", "rust", "yaml", "json"}
    assert len([step for step in found if step.language == "sh"]) >= 6
