"""Streams and groups on the server: looked at, made, and deleted."""
