"""The key-value providers: one class with the operations, and a package per backend that keeps the data."""
