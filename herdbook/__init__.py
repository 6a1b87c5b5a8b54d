"""herdbook raises a herd of Llama-3-style foundation models from raw web pages, and keeps its book."""

__version__ = "0.1.0"
