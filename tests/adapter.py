"""An adapter that is the same in every process."""

import torch


def draw_adapter(model) -> None:
    """Give a model's LoRA weights values by their names, so that it says something else than its base."""
    draw = torch.Generator().manual_seed(0)
    for _, weight in sorted((n, p) for n, p in model.named_parameters() if "lora_" in n):
        weight.data.copy_(0.02 * torch.randn(weight.shape, generator=draw))
