"""Capability providers, each a process of its own; :mod:`providers.runtime` is what they share."""
