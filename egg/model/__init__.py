"""A trained model: on disk, measured, sampled, compressed."""
