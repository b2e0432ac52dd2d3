"""Exactly-once processing: what a processor keeps, and how."""
