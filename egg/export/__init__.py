"""Models for other programs: C, the Hugging Face Hub, lm-evaluation-harness."""
