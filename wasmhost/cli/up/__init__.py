"""``wasmhost up``: a whole lattice on this machine from one command."""
