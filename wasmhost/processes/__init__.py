"""Child processes of any kind, and how none of them is left behind."""
