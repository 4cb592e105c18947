"""Terminal and HTML, for all that is shown."""
