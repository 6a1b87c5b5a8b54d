"""Text to tokens (§3.2): tokenizer, packed shards, and batches as a pure function of (seed, step)."""
