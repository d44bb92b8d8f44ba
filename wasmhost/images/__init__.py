"""Images: where the bytes of actors and providers come from, verified before use."""
