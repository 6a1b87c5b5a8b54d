"""The Llama 3 decoder (§3.2) and its formats. Knows nothing of training, text or parallelism."""
