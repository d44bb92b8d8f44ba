"""The key-value provider on Redis."""
