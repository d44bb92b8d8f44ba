"""Applications: manifests and the plan that makes the lattice match them."""
