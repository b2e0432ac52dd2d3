"""Windows of event time: which rows belong together, and when nothing more is waited for."""
