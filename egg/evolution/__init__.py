"""The recipes, one a file, behind one interface."""
