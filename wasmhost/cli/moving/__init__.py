"""Commands that move what runs to another host, without losing a request."""
