"""Capability providers as child processes: started, told of links and keys, watched, restarted, stopped."""
