"""Making a steering bundle: states, vectors, gate and tiers, offline."""
