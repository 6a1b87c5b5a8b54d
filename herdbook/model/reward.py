"""A reward model's shape (§4.1.2): a decoder whose head gives one number of each token instead of logits.

Read at an answer's last token that number is the answer's score. In Hugging Face's words it is a
`LlamaForSequenceClassification` with one label.
"""

from __future__ import annotations

from herdbook.model.config import ModelConfig


class RewardConfig(ModelConfig):
    """The shape of a reward model."""

    @classmethod
    def of(cls, config: ModelConfig) -> RewardConfig:
        """That of a reward model made of a language model; its head is a weight of its own."""
        return cls(**{**dict(config), "tied_embeddings": False})

    @property
    def head_words(self) -> int:
        """Numbers that the head gives of each token."""
        return 1
