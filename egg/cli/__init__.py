"""The commands, one a file, none importing another; with ``egg.training.corpus``, all that knows ``data``."""
