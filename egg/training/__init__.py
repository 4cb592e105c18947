"""Training as a library: `egg.train`, and what the command `egg train` calls."""
