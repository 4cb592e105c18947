"""The commands, one a file, none importing another; the only room that knows ``data``."""
