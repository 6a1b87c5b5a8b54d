"""Pre-training (§3.4): from packed tokens to a base model."""
