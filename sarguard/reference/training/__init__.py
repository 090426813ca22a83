"""Training of the reference model to hear, without changing what it says."""
