"""Training as a library: `egg.train`, which the command `egg train` shares."""
