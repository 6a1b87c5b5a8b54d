"""From documents to batches: the tokenizer, the chat format, packed shards and the order they are read in.

A text becomes ids once (`pack`), the ids lie memory-mapped on disk (`shards`), and which of them a step
sees is a pure function of (seed, step) (`batches`), so a resumed run needs no loader state (§3.1, §3.2).
"""
