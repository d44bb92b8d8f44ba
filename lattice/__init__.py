"""Everything that crosses NATS: the protocol as pure modules, then a thin I/O shell."""
