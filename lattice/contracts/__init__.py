"""The lattice contracts: argument and result types of standard capability contracts."""
