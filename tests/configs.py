"""Configurations of the models that `colab` and `paper` train, of which nothing else is needed here."""

from transformers import Qwen2Config, Qwen3Config

QWEN = {"vocab_size": 151_936, "tie_word_embeddings": True}
CONFIGS = {
    "colab": Qwen2Config(
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        **QWEN,
    ),
    "paper": Qwen3Config(
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        **QWEN,
    ),
}
