"""Which documents are worth training on: labels, classifiers learnt from them, and scores as columns (§3.1.1, f2)."""
