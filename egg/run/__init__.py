"""A run: its loop, log, lock and stops."""
