"""Who a host is, which keys it signs with and accepts, and how they are kept."""
