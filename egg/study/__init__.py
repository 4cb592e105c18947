"""Experiments over many runs or many states: comparisons, d90, the geometry of hidden states."""
