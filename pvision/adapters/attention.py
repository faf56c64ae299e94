"""Attention layers written out, where an adapter needs to be inside: thirds of ``in_proj_weight``, and prefixes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvision.adapters.sites import Site
from pvision.errors import ConfigError

__all__ = ["AttentionSite", "check_own_forward", "takes_prefix"]

_TIMM = ("timm.layers.attention", "timm.models.vision_transformer")
_HUGGING_FACE = (
    "ViTAttention", "DeiTAttention", "Dinov2Attention", "Dinov2WithRegistersAttention", "ViTMAEAttention",
    "ViTMSNAttention", "CLIPAttention", "SiglipAttention",
)  # fmt: skip


class AttentionSite(Site):
    """The adapters inside one attention layer, whose ``forward`` it replaces.

    While none of them runs, the layer computes exactly what it did before.

    Args:
        module: the attention layer.
        name: its name in the network.
        owner: the module that holds it.
    """

    out_site: Site | None = None

    def attach(self) -> None:
        """Replace the layer's ``forward``."""
        # A hook, even an idle one, keeps torch's fused encoder layers from reading the weights past the adapters.
        self._handles = [self.module.register_forward_pre_hook(_stay_unfused)]
        # A bound method in the instance: `nn.Module.__call__` finds it before the class's, and copies take it along.
        vars(self.module)["forward"] = self.attend

    def detach(self) -> None:
        """Give the layer its own ``forward`` back."""
        super().detach()
        vars(self.module).pop("forward", None)

    def accompany(self, site: Site) -> None:
        """Compute the layer here whenever this site, which is that of its ``out_proj``, runs."""
        object.__setattr__(self, "out_site", site)

    def attend(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the layer, with its adapters where they run."""
        if self._is_idle():
            return type(self.module).forward(self.module, *args, **kwargs)
        return _forward_of(self.module)(self, self.module, *args, **kwargs)

    def _is_idle(self) -> bool:
        if any(True for _ in self.adapters(self.running)):
            return False
        projection = getattr(self.module, "out_proj", None)
        watched = isinstance(projection, nn.Module) and bool(projection._forward_pre_hooks)
        # torch reads out_proj's weights without calling it: neither its adapters nor a hook would see anything.
        outer = self.out_site
        return not watched and (outer is None or not any(True for _ in outer.adapters(outer.running)))

    def with_prefixes(self, tokens: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, ``(B, heads, N, size)``, with the running prefixes before them."""
        batch, heads, _, size = keys.shape
        for _, adapter in self.adapters(self.running):
            if adapter.additive:
                continue
            prefix = adapter.contribution(tokens).to(keys.dtype)
            split = prefix.view(*prefix.shape[:-1], heads, size).transpose(2, 3).expand(2, batch, -1, -1, -1)
            keys, values = torch.cat([split[0], keys], 2), torch.cat([split[1], values], 2)
        return keys, values


def check_own_forward(module: nn.Module, name: str) -> None:
    """Refuse an attention layer whose ``forward`` is not that of its class, unless an `AttentionSite` replaced it.

    Raises:
        ConfigError: naming the layer.
    """
    replaced = vars(module).get("forward")
    if replaced is not None and not isinstance(getattr(replaced, "__self__", None), AttentionSite):
        raise ConfigError(f"{name}: its forward was replaced by something else. Undo that, or target other layers.")


def takes_prefix(module: nn.Module) -> bool:
    """Tell whether a prefix can be put into this attention layer."""
    return _family(module) is not None


def _family(module: nn.Module) -> Callable[..., Any] | None:
    kind = type(module)
    if isinstance(module, nn.MultiheadAttention):
        return _multihead
    if kind.__module__ in _TIMM and kind.__name__ == "Attention":
        return _timm
    if (kind.__module__, kind.__name__) == ("pvision.models._vit_blocks", "Attention"):
        return _pvision
    if kind.__module__.startswith("transformers.") and kind.__name__ in _HUGGING_FACE:
        return _hugging_face
    return None


def _forward_of(module: nn.Module) -> Callable[..., Any]:
    forward = _family(module)
    if forward is None:
        raise ConfigError(f"{type(module).__qualname__} is no attention layer that pvision can write out.")
    return forward


def _stay_unfused(module: nn.Module, args: Any) -> None:
    """Do nothing."""


def _heads(tokens: Tensor, size: int) -> Tensor:
    """Split ``(B, N, heads · size)`` into ``(B, heads, N, size)``."""
    return tokens.view(*tokens.shape[:-1], -1, size).transpose(1, 2)


def _no_mask(mask: object, causal: bool = False) -> None:
    if mask is not None or causal:
        raise ConfigError("a prefix in an attention layer takes no attention mask. Call the model without a mask.")


def _timm(
    site: AttentionSite, module: Any, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    _no_mask(attn_mask, is_causal)
    batch, tokens, _ = x.shape
    packed = module.qkv(x).reshape(batch, tokens, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
    queries, keys, values = packed.unbind(0)
    keys, values = site.with_prefixes(x, module.k_norm(keys), values)
    dropout = module.attn_drop.p if module.training else 0.0
    mixed = F.scaled_dot_product_attention(module.q_norm(queries), keys, values, dropout_p=dropout)
    mixed = mixed.transpose(1, 2).reshape(batch, tokens, -1)
    mixed = module.norm(mixed) if hasattr(module, "norm") else mixed
    gate = getattr(module, "gate", None)
    mixed = mixed if gate is None else mixed * gate(x).sigmoid()
    projected: Tensor = module.proj_drop(module.proj(mixed))
    return projected


def _pvision(site: AttentionSite, module: Any, tokens: Tensor) -> Tensor:
    queries, keys, values = module.split(tokens)
    mixed: Tensor = module.attend(queries, *site.with_prefixes(tokens, keys, values))
    return mixed


def _hugging_face(
    site: AttentionSite, module: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any
) -> tuple[Tensor, None]:
    _no_mask(attention_mask)
    queries, keys, values = (
        _heads(project(hidden_states), module.head_dim) for project in (module.q_proj, module.k_proj, module.v_proj)
    )
    keys, values = site.with_prefixes(hidden_states, keys, values)
    rate = float(getattr(module, "attention_dropout", getattr(module, "dropout", 0.0)))
    dropout = rate if module.training else 0.0
    mixed = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, scale=module.head_dim**-0.5)
    out = module.o_proj if hasattr(module, "o_proj") else module.out_proj
    return out(mixed.transpose(1, 2).flatten(2)), None


def _multihead(
    site: AttentionSite,
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Compute what `nn.MultiheadAttention.forward` does, where ``is_causal`` is a mere hint about ``attn_mask``."""
    given = (
        [query, key, value]
        if query.ndim == 3
        else [one.unsqueeze(0 if module.batch_first else 1) for one in (query, key, value)]
    )
    given = given if module.batch_first else [one.transpose(0, 1) for one in given]
    same = query is key and key is value
    queries, keys, values = _in_projected(site, module, given, same=same)
    mask = _mask(queries, keys, attn_mask, key_padding_mask)
    if any(not adapter.additive for _, adapter in site.adapters(site.running)):
        _no_mask(mask)
        keys, values = site.with_prefixes(given[0], keys, values)
    mixed, weights = _mixed(module, queries, keys, values, mask, need_weights=need_weights)
    out = module.out_proj(mixed.transpose(1, 2).flatten(2))
    out = out if module.batch_first else out.transpose(0, 1)
    if weights is not None and average_attn_weights:
        weights = weights.mean(1)
    if query.ndim == 3:
        return out, weights
    return out.squeeze(0 if module.batch_first else 1), None if weights is None else weights.squeeze(0)


def _in_projected(site: Site, module: nn.MultiheadAttention, given: list[Tensor], *, same: bool) -> list[Tensor]:
    """Return queries, keys and values, ``(B, heads, N, size)``."""
    weight, bias = module.in_proj_weight, module.in_proj_bias
    packed = [
        site.changed(tokens, F.linear(tokens, weight, bias)).chunk(3, -1) for tokens in (given[:1] if same else given)
    ]
    return [_heads((packed[0] if same else packed[index])[index], module.head_dim) for index in range(3)]


def _mask(queries: Tensor, keys: Tensor, attn_mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
    """Return what is added to the scores, ``(B or 1, heads or 1, N, S)``; in a boolean mask, True is forbidden."""
    batch, heads = queries.shape[:2]
    total = None
    for mask in (attn_mask, padding):
        if mask is None:
            continue
        if mask is padding:
            mask = mask.reshape(batch, 1, 1, keys.shape[2])
        elif mask.ndim == 3:
            mask = mask.view(batch, heads, *mask.shape[1:])
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=queries.dtype).masked_fill(mask, -torch.inf)
        total = mask if total is None else total + mask
    return total


def _mixed(
    module: nn.MultiheadAttention,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    *,
    need_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    dropout = module.dropout if module.training else 0.0
    if not need_weights:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout), None
    scores = queries @ keys.transpose(-1, -2) * module.head_dim**-0.5
    weights = F.dropout(torch.softmax(scores if mask is None else scores + mask, -1), dropout)
    return weights @ values, weights
