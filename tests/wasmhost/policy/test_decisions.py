"""Decisions are remembered for a while, bounded, and replaced by the request that they answered."""

from __future__ import annotations

from wasmhost.policy.decisions import Decision, DecisionBook


def test_a_decision_counts_for_its_lifetime_and_is_renewed_before() -> None:
    book: DecisionBook[str] = DecisionBook(lifetime=10.0)
    decision = Decision("r1", True, "", made=100.0)
    book.note("call", decision)
    assert book.find("call", 109.9) is decision and book.find("call", 110.0) is None
    assert not book.is_ageing(decision, 107.0) and book.is_ageing(decision, 108.0)
    assert book.find("another", 101.0) is None


def test_an_override_replaces_what_its_request_was_about_even_after_it_was_asked_again() -> None:
    book: DecisionBook[str] = DecisionBook(lifetime=10.0)
    book.note("call", Decision("r1", True, "", made=0.0))
    book.note("call", Decision("r2", True, "", made=5.0))
    assert book.override("r1", permitted=False, message="no", now=6.0) == "call"
    found = book.find("call", 15.0)
    assert found is not None and not found.permitted and found.message == "no"
    assert book.override("r3", permitted=True, message="", now=6.0) is None


def test_the_book_is_bounded_and_the_oldest_leaves() -> None:
    book: DecisionBook[int] = DecisionBook(lifetime=1000.0, capacity=10)
    for number in range(100):
        book.note(number, Decision(f"r{number}", True, "", made=0.0))
    assert len(book) == 10 and book.find(99, 1.0) is not None and book.find(89, 1.0) is None
    assert book.override("r0", permitted=True, message="", now=1.0) is None
