"""Settings: where each comes from, how its text is read, and the configuration of a host they make."""
