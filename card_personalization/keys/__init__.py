"""Keys by name: a port that never gives a key away, and the stores behind it."""
