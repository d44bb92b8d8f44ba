"""What a host knows of its lattice: links, claims, and what its hosts agree on."""
