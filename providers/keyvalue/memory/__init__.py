"""The key-value provider that keeps its data in the memory of its process."""
