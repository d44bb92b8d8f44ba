"""Guests: WebAssembly actors behind one interface, whatever their kind."""
