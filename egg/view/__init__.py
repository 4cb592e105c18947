"""Output on the terminal and as HTML."""
