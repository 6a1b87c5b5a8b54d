"""§4: dialogs, reward models, rejection sampling, fine-tuning, preferences, averaging, in rounds."""
