"""Reading: a frame, a scan, an Arrow stream, or batch after batch."""
