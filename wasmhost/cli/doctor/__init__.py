"""``wasmhost doctor``: what may keep this machine or this lattice from working, and what to do about it."""
