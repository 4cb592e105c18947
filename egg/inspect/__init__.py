"""What goes on inside: kernels, weights, a text's way through the network, the integer tables."""
