"""A look inside: kernels, weights, a text's path through the network, the integer tables."""
