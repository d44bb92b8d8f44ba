"""What a host was asked to run, and how it comes back with it."""
