"""Argument types of capability contracts: what travels inside the ``msg`` of an invocation."""
