"""Running a model (§6): key/value cache, sampling, batched generation and scoring, chat."""
