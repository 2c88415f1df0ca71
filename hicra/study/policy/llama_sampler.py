"""Sampling from a Llama, several times faster than transformers' generate.

A prompt is read once for all of its completions; keys and values lie in one preallocated cache; a draw costs
as little for a large vocabulary as for a small one. On a CPU finished rows leave the cache; on a GPU each
token replays a recorded CUDA graph. Log-probability and entropy of every token fall out on the way, so no
pass has to score them afterwards. `refusal` holds the whole rule of when this sampler steps aside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain, groupby
from typing import NamedTuple

import hicra.study.policy.unsloth_models  # noqa: F401  (Unsloth comes before transformers)
from hicra.study.policy.float32_products import linear_precision, products

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, LlamaForCausalLM

from hicra.batches import without_adapter
from hicra.errors import HicraError

KEPT = 0.8  # share of rows under way at which the finished ones leave the cache; 0.6 to 0.9 cost the same
BLOCK = 64  # tokens: a draw chooses a block of the vocabulary, then a token in it
NORMS = ("LlamaRMSNorm", "Unsloth_LlamaRMSNorm")  # Unsloth's, on a GPU, is the same by another kernel
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Of GenerationConfig, what is followed or changes no sample, and the values that say "not used".
FOLLOWED = ("max_new_tokens", "do_sample", "temperature", "eos_token_id", "pad_token_id", "bos_token_id")
HARMLESS = ("transformers_version", "disable_compile", "use_cache", "_from_model_config")
UNUSED = {"top_k": (None, 0), "top_p": (None, 1.0), "repetition_penalty": (None, 1.0)}


class Completions(NamedTuple):
    """B sampled completions of at most T tokens. Padding on the right has the padding id, False and zeros."""

    ids: Tensor  # (B, T)
    mask: Tensor  # (B, T) bool
    logps: Tensor  # (B, T) of the logits divided by the temperature
    entropies: Tensor  # (B, T) nats, over the whole vocabulary, of the same

    def token_ids(self) -> list[list[int]]:
        """The ids of each completion without its padding, an end token included."""
        return [row[own].tolist() for row, own in zip(self.ids, self.mask, strict=True)]


def refusal(model, *settings: GenerationConfig) -> str:
    """Why transformers' generate must sample from `model` with `settings` instead; "" where it need not.

    Sampled here is: LlamaForCausalLM as transformers defines it, on a CPU or one GPU, in float32, without
    rope scaling, biases or dropout, its linear maps plain or with plain LoRA adapters; by temperature alone.
    """
    core = without_adapter(model)
    if type(core) is not LlamaForCausalLM:
        return f"{type(core).__name__} is not LlamaForCausalLM"
    kinds = {f"{p.dtype} on {p.device}" for p in core.parameters()}
    if len(kinds) > 1 or not re.fullmatch(r"torch\.float32 on (cpu|cuda:\d+)", *kinds):
        return f"weights are {', '.join(sorted(kinds))}, not torch.float32 on a CPU or one CUDA device alone"
    config, adapters = core.config, getattr(model, "peft_config", {})
    found = {
        "rope": config.rope_parameters["rope_type"] == "default",
        "activation": config.hidden_act == "silu",
        "dropout": not config.attention_dropout,
        "adapter": all(type(adapter) is lora.LoraConfig for adapter in adapters.values()),
        "norm": all(type(m).__name__ in NORMS for m in _norms(core)),
        "embedding": type(core.model.embed_tokens) is nn.Embedding,
        "head": _plain(core.lm_head),
        "linear map": all(map(_foldable, _linear_maps(core))),
    }
    if unknown := [name for name, known in found.items() if not known]:
        return f"its {', '.join(unknown)} cannot be sampled from here"
    given = {name: value for s in (model.generation_config, *settings) for name, value in _unknown(s).items()}
    return f"generation settings {given}" if given else ""


def sampled_by(model, *settings: GenerationConfig) -> str:
    """What samples from `model`: "own", on a GPU "own on cuda", or "transformers"; they draw differently."""
    if refusal(model, *settings):
        return "transformers"
    device = without_adapter(model).lm_head.weight.device.type
    return "own" if device == "cpu" else f"own on {device}"


def _unknown(settings: GenerationConfig) -> dict:
    own = {k: v for k, v in settings.to_diff_dict().items() if k not in FOLLOWED + HARMLESS}
    return {k: v for k, v in own.items() if v not in UNUSED.get(k, (None, False))}


def _linear_maps(core: LlamaForCausalLM) -> list[nn.Module]:
    return [
        getattr(layer.self_attn if hasattr(layer.self_attn, name) else layer.mlp, name)
        for layer in core.model.layers
        for name in LINEAR
    ]


def _norms(core: LlamaForCausalLM) -> list[nn.Module]:
    inside = [(layer.input_layernorm, layer.post_attention_layernorm) for layer in core.model.layers]
    return [core.model.norm, *chain.from_iterable(inside)]


def _plain(linear: nn.Module) -> bool:
    return type(linear) is nn.Linear and linear.bias is None


def _foldable(linear: nn.Module) -> bool:
    """Whether `_weight` gives all that the map does: a plain one, or one with plain LoRA adapters at work."""
    if type(linear) is not lora.Linear:
        return _plain(linear)
    dropout = any(type(d) is not nn.Identity for d in linear.lora_dropout.values())
    more = linear.lora_variant or any(linear.lora_bias.values()) or linear.merged or linear.disable_adapters
    return _plain(linear.base_layer) and not (dropout or more)


def _weight(linear: nn.Module) -> Tensor:
    """A linear map's matrix, (out, in), with its adapters added."""
    if type(linear) is nn.Linear:
        return linear.weight
    return sum(map(linear.get_delta_weight, linear.active_adapters), linear.base_layer.weight)


def sample(
    model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    ends: Sequence[int],
    pad: int,
) -> Completions:
    """A completion of each of the B prompts, token ids, by a model that `refusal` lets through.

    Equal prompts that stand together are read once. `temperature` 0 takes the most probable token, with the
    values of temperature 1; else torch's global generator decides. A token of `ends` ends a completion.
    Raises HicraError for no prompt and for no token.
    """
    if not prompts or max_new_tokens < 1:
        raise HicraError(f"{len(prompts)} prompts, {max_new_tokens} new tokens: give at least one of both")
    groups = [(prompt, len(list(same))) for prompt, same in groupby(map(tuple, prompts))]
    shape = (len(prompts), max_new_tokens)
    device = without_adapter(model).lm_head.weight.device
    ids = torch.full(shape, pad, device=device)  # (B, T)
    logps, entropies = torch.zeros(2, *shape, device=device)  # (B, T), (B, T)
    rows = torch.arange(len(ids), device=device)  # (b,): under way
    alive, last = torch.ones_like(rows, dtype=torch.bool), torch.tensor(list(ends), device=device)
    with torch.inference_mode(), products(linear_precision(device.type)):
        network = (_Network if device.type == "cpu" else _GraphNetwork)(model)
        logits = network.read(groups, pad, max_new_tokens)  # (b, V)
        for t in range(max_new_tokens):
            scores = (logits / (temperature or 1)).log_softmax(-1)  # (b, V)
            chances = scores.exp()  # (b, V)
            chosen = draw(chances) if temperature else chances.argmax(-1)  # (b,)
            ids[rows, t] = chosen
            logps[rows, t] = scores.gather(-1, chosen[:, None])[:, 0]  # (b,)
            entropies[rows, t] = -(chances * scores).sum(-1)  # (b,)
            alive &= ~torch.isin(chosen, last)
            left = int(alive.sum())
            if not left or t == max_new_tokens - 1:
                break
            if network.drops and left <= KEPT * len(rows):
                network.keep(alive)
                rows, chosen, alive = rows[alive], chosen[alive], alive[alive]
            logits = network.follow(chosen)  # (b, V)
    ended = torch.isin(ids, last)  # (B, T); finished rows went on for a while, which is not theirs
    mask = (ended.cumsum(1) - ended.int() == 0)[:, : t + 1]  # (B, T)
    ids, logps, entropies = (values[:, : t + 1] for values in (ids, logps, entropies))
    return Completions(ids.where(mask, pad), mask, logps.where(mask, 0), entropies.where(mask, 0))


def left_padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids, and which of them are padding, bool, both (B, P) with the padding on the left."""
    longest = max(map(len, prompts))
    short = [longest - len(prompt) for prompt in prompts]
    ids = torch.tensor([[pad] * n + list(prompt) for n, prompt in zip(short, prompts, strict=True)])
    return ids, torch.arange(longest) < torch.tensor(short)[:, None]


def draw(chances: Tensor) -> Tensor:
    """A token of each row of `chances` (b, V), by inverting its distribution function: (b,).

    First a block of the vocabulary, then a token in it, so that no sum runs over all of it in 64 bits.
    """
    if short := -chances.shape[1] % BLOCK:
        chances = functional.pad(chances, (0, short))
    blocks = chances.view(len(chances), -1, BLOCK)
    upto = blocks.sum(-1, dtype=torch.float64).cumsum(-1)  # (b, V / BLOCK)
    b, device = len(chances), chances.device
    point = torch.rand(b, 1, dtype=torch.float64, device=device) * upto[:, -1:]  # (b, 1)
    block = torch.searchsorted(upto, point, right=True).clamp_(max=upto.shape[1] - 1)  # (b, 1)
    point -= functional.pad(upto, (1, 0)).gather(1, block)
    chosen = blocks[torch.arange(b, device=device), block[:, 0]]  # (b, BLOCK)
    inside = chosen.cumsum(-1, dtype=torch.float64)  # (b, BLOCK)
    point = point.minimum(inside[:, -1:].nextafter(torch.zeros_like(point)))  # rounding must not pass its end
    return (block * BLOCK + torch.searchsorted(inside, point, right=True))[:, 0]


class _Layer(NamedTuple):
    """A layer's matrices; the norm before a linear map is folded into it."""

    qkv: Tensor  # ((Hq + 2 Hk) D, hidden)
    out: Tensor  # (hidden, Hq D)
    gate_up: Tensor  # (2 inner, hidden)
    down: Tensor  # (hidden, inner)


class _Network:
    """A Llama's weights as they are now, and the keys and values of the rows under way.

    Positions are columns of the cache: rotary ones act by their differences, and padding on the left is
    masked.
    """

    drops = True  # whether finished rows leave

    def __init__(self, model) -> None:
        core = without_adapter(model)
        config, body = core.config, core.model
        self.n_queries, self.n_keys = config.num_attention_heads, config.num_key_value_heads
        self.layers = [_layer(layer) for layer in body.layers]
        self.embedding = body.embed_tokens.weight  # (V, hidden)
        self.device = self.embedding.device
        self.epsilon = config.rms_norm_eps
        self.frequencies = body.rotary_emb.inv_freq.to(self.device)  # (D / 2,); Unsloth keeps it on the CPU
        self.width = 2 * len(self.frequencies)  # of a head, D
        self.head = core.lm_head.weight * body.norm.weight  # (V, hidden)

    def read(self, groups: Sequence[tuple[Sequence[int], int]], pad: int, n_new: int) -> Tensor:
        """Logits (B, V) after each prompt, repeated as often as its group says, with room for `n_new`."""
        repeats = torch.tensor([n for _, n in groups], device=self.device)
        both = left_padded([prompt for prompt, _ in groups], pad)
        ids, padding = (values.to(self.device) for values in both)  # (n, P), (n, P)
        self.column = longest = ids.shape[1]
        self._turn(longest + n_new)
        once = self._cache(len(groups), longest)
        logits = self._forward(ids, once, slice(longest), _prompt_attention(padding))  # (n, V)
        self.cache = self._cache(int(repeats.sum()), longest + n_new)
        self.cache[..., :longest, :] = once.repeat_interleave(repeats, 2)
        self.bias = None
        if padding.any():
            bias = torch.zeros(padding.shape, device=self.device).masked_fill(padding, -torch.inf)
            bias = functional.pad(bias, (0, n_new))  # (n, L)
            self.bias = bias.repeat_interleave(repeats, 0)[:, None, None]  # (B, 1, 1, L)
        return logits.repeat_interleave(repeats, 0)

    def follow(self, tokens: Tensor) -> Tensor:
        """Logits (b, V) after one more token of every row, (b,)."""
        self.column += 1
        return self._forward(tokens[:, None], self.cache, slice(self.column - 1, self.column), self._attend)

    def keep(self, chosen: Tensor) -> None:
        """Drop the rows that are not `chosen`, bool (b,)."""
        n = int(chosen.sum())
        self.cache[:, :, :n, :, : self.column] = self.cache[:, :, chosen, :, : self.column]
        self.cache = self.cache[:, :, :n]
        self.bias = None if self.bias is None else self.bias[chosen]

    def _cache(self, rows: int, columns: int) -> Tensor:
        """Room for keys and values, (layers, 2, rows, Hk, columns, D)."""
        shape = (len(self.layers), 2, rows, self.n_keys, columns, self.width)
        return torch.empty(shape, device=self.device)

    def _turn(self, n: int) -> None:
        """The rotations of `n` columns, (n, 1, D) each; the sine's first half is negative."""
        columns = torch.arange(n, device=self.device)
        angles = torch.outer(columns.float(), self.frequencies)[:, None]  # (n, 1, D / 2)
        self.cosine = torch.cat([angles.cos(), angles.cos()], -1)
        self.sine = torch.cat([-angles.sin(), angles.sin()], -1)

    def _forward(
        self, tokens: Tensor, cache: Tensor, columns: slice | Tensor, attend: Callable[..., Tensor]
    ) -> Tensor:
        """Logits (b, V) after `tokens` (b, t), whose keys and values fill `columns` of `cache`."""
        (b, t), n = tokens.shape, self.n_queries + self.n_keys
        cosine, sine = self.cosine[columns], self.sine[columns]  # (t, 1, D) each
        x = functional.embedding(tokens, self.embedding)  # (b, t, hidden)
        for layer, (keys, values) in zip(self.layers, cache, strict=True):  # (b, Hk, L, D) each
            heads = functional.linear(self._norm(x), layer.qkv).view(b, t, -1, self.width)
            straight = heads[:, :, :n]  # (b, t, Hq + Hk, D)
            turned = straight * cosine + straight.roll(self.width // 2, -1) * sine
            keys[:, :, columns] = turned[:, :, self.n_queries :].transpose(1, 2)
            values[:, :, columns] = heads[:, :, n:].transpose(1, 2)
            with products("highest"):
                y = attend(turned[:, :, : self.n_queries], keys, values)
            x = x + functional.linear(y.reshape(b, t, -1), layer.out)
            gate, up = functional.linear(self._norm(x), layer.gate_up).chunk(2, -1)  # (b, t, inner) each
            x = x + functional.linear(functional.silu(gate) * up, layer.down)
        return functional.linear(self._norm(x[:, -1]), self.head)

    def _norm(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """One query (b, 1, Hq, D) on keys and values (b, Hk, L, D) so far, as (b, Hk, Hq / Hk, D).

        The heads that share a key stand where queries stand, so nothing is repeated.
        """
        q = queries.view(len(queries), self.n_keys, -1, self.width)
        scores = q @ keys[:, :, : self.column].mT * self.width**-0.5  # (b, Hk, Hq / Hk, l)
        if self.bias is not None:
            scores += self.bias[..., : self.column]
        return scores.softmax(-1) @ values[:, :, : self.column]


class _GraphNetwork(_Network):
    """The same on a GPU, where starting a token's thousand kernels takes longer than they do.

    They are recorded once as a CUDA graph and replayed for every token. What is recorded keeps its shapes:
    all rows stay to the end, and attention spans the whole cache, of which `bias` hides what is not written.
    That pays for completions of some hundred tokens, which is what a float32 Llama is trained on here.
    """

    drops = False

    def read(self, groups: Sequence[tuple[Sequence[int], int]], pad: int, n_new: int) -> Tensor:
        logits = super().read(groups, pad, n_new)  # (B, V)
        self.cache[..., self.column :, :] = 0  # hidden, but a number it must be
        if self.bias is None:
            self.bias = torch.zeros(len(logits), 1, 1, self.cache.shape[-2], device=self.device)
        self.bias[..., self.column :] = -torch.inf
        self.tokens = torch.zeros(len(logits), 1, dtype=torch.long, device=self.device)
        self.columns = torch.tensor([self.column - 1], device=self.device)
        self.column = self.cache.shape[-2]
        self.replay = None
        return logits

    def follow(self, tokens: Tensor) -> Tensor:
        self.tokens.copy_(tokens[:, None])
        self.columns += 1
        self.replay = self.replay or recorded(self._next, self.device)
        return self.replay()

    def _next(self) -> Tensor:
        self.bias.index_fill_(-1, self.columns, 0)
        return self._forward(self.tokens, self.cache, self.columns, self._attend)


def recorded(act: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """`act`, which repeated at once changes nothing, as a CUDA graph; it gives one tensor, filled anew."""
    act()  # what is loaded and chosen at first use cannot be recorded
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    # Other threads of the process, a watchdog's say, may use the card meanwhile.
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        result = act()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def _layer(layer: nn.Module) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    qkv = torch.cat([_weight(m) for m in (attention.q_proj, attention.k_proj, attention.v_proj)])
    gate_up = torch.cat([_weight(mlp.gate_proj), _weight(mlp.up_proj)])
    return _Layer(
        qkv * layer.input_layernorm.weight,
        _weight(attention.o_proj),
        gate_up * layer.post_attention_layernorm.weight,
        _weight(mlp.down_proj),
    )


def _prompt_attention(padding: Tensor) -> Callable[..., Tensor]:
    """Causal attention over prompts, with padding (n, P) on their left: (n, P, Hq, D) to the same."""
    mask = None
    if padding.any():
        n = padding.shape[1]
        own = {"dtype": torch.bool, "device": padding.device}
        causal = torch.ones(n, n, **own).tril() & ~padding[:, None]  # (n, P, P)
        itself = torch.eye(n, **own)  # (P, P); padding that sees nothing would be no number
        mask = (causal | itself)[:, None]  # (n, 1, P, P)

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        grouped = queries.shape[2] != keys.shape[1]
        return functional.scaled_dot_product_attention(
            queries.transpose(1, 2), keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
        ).transpose(1, 2)

    return attend
