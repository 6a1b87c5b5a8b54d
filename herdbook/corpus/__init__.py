"""Pages to documents (§3.1): read, extract, measure, decide, deduplicate."""
