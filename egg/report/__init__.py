"""What a run leaves to look at: curves, pictures, its page, its closing summary."""
