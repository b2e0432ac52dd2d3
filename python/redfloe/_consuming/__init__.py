"""Workers: `StreamConsumer`, and what it is made of."""
