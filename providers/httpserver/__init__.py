"""The HTTP server provider: HTTP requests in, invocations of linked actors out."""
