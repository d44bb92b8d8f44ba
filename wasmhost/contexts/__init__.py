"""Where commands find their lattice."""
