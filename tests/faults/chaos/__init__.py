"""The chaos run: a counter on three hosts under load, a random fault every few seconds, and what must hold afterwards.

``python -m tests.faults.chaos --minutes 10 --seed 7`` runs it by hand; ``tests/faults/test_chaos.py`` runs a short one.
"""
