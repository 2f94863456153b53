"""The six stages, one module each. A stage decides; it never reads a table, a socket or a clock."""
