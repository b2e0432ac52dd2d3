"""Writing into streams."""
