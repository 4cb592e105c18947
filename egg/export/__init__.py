"""Models taken elsewhere: C, the Hugging Face Hub, lm-evaluation-harness."""
