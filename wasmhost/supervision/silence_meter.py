"""For how long a process has been silent, measured by the questions that it left unanswered."""

from __future__ import annotations


class SilenceMeter:
    """Counts up rounds of asking, each for no longer than a question takes.

    Not the time since the last answer: that may be long for want of questions, and a host that was itself frozen finds,
    when it goes on, that its timers have run out and its providers as well as they were.
    """

    def __init__(self, longest_round: float, *, now: float) -> None:
        """``longest_round`` in seconds; ``now`` is a ``loop.time()``."""
        self.seconds = 0.0
        self.alone = True
        """While it is silent: no other process of this provider answers in the lattice."""
        self._longest_round = longest_round
        self._round_began = now

    def heard(self, now: float) -> None:
        """It answered, or could not be asked."""
        self.seconds, self.alone, self._round_began = 0.0, True, now

    def unanswered(self, now: float) -> None:
        """One more question without an answer."""
        self.seconds += min(now - self._round_began, self._longest_round)
        self._round_began = now
