"""docs/actors-c.md, followed from top to bottom by somebody who types what it says."""

from __future__ import annotations

from tests.support.pages import Terminal, steps


def test_the_page_works_as_it_is_written(terminal: Terminal) -> None:
    terminal.follow("actors-c")
    assert terminal.up is not None
    terminal.up.wait_for_output("Ada Lovelace came 1 times")
    terminal.up.wait_for_output("the host gave a random number")
    assert terminal.up.stop() == 0, terminal.up.output


def test_every_block_of_the_page_is_understood() -> None:
    found = steps("actors-c")
    assert [step.file for step in found if step.file] == ["greet/greet.c", "greet/greet.yaml", "shout/shout.wat"]
    assert {step.language for step in found} == {"sh", "text", "c", "yaml", "wat"}
    assert [step.text.count("\n") for step in found if step.language == "sh"] == [1, 1, 1, 1, 1, 1, 4]
