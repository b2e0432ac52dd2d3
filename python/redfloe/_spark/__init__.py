"""What `redfloe.spark` is made of."""
