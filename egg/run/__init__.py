"""A run: its loop, its log, its lock, its stops."""
