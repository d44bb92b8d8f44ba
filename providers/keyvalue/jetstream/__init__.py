"""The key-value provider on JetStream KV."""
