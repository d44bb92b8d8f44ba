"""The data path of a host: calls that reach its actors, and calls that its actors make."""
