"""The places in a vision transformer where an adapter may sit, and how they are named.

Every family names its layers in its own way, and two of them fuse queries, keys and values into one matrix. Here each
place has one full name and one role. Asked for by role, only places inside a block of the transformer are meant, which
leaves a pooling layer's queries alone:

==============================  =============  ===================================  ==========================
role                            timm           torchvision                          Hugging Face
==============================  =============  ===================================  ==========================
``q``, ``k``, ``v``             a third of     a third of ``in_proj_weight`` of     ``q_proj``, ``k_proj``,
                                ``attn.qkv``   ``self_attention``                   ``v_proj``
``qkv``                         ``attn.qkv``   ``in_proj_weight``, whole            none
``o``                           ``attn.proj``  ``self_attention.out_proj``          ``o_proj``, ``out_proj``
``fc1``, ``fc2``                ``mlp.fc1``    ``mlp.0``, ``mlp.3``                 ``mlp.fc1``, ``mlp.fc2``
``mlp``, beside the whole MLP   ``mlp``        ``mlp``                              ``mlp``
``attention``, the whole layer  ``attn``       ``self_attention``                   ``attention``
==============================  =============  ===================================  ==========================

A third of a fused matrix is named after it: ``blocks.0.attn.qkv.q``, ``….self_attention.q``. Any other linear layer has
the role ``linear`` and is found by its name.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear  # what nn.MultiheadAttention projects with

__all__ = ["Place", "find_places"]

_PROJECTIONS = {
    "q": ("q", "q_proj", "query", "to_q"),
    "k": ("k", "k_proj", "key", "to_k"),
    "v": ("v", "v_proj", "value", "to_v"),
}
_FUSED = ("qkv", "queries_keys_values")
_LIBRARIES = ("timm", "torchvision", "transformers", "pvision")
_OUTPUTS = ("proj", "o_proj", "out_proj", "project")
_MLP = {"fc1": ("fc1", "linear1", "lin1"), "fc2": ("fc2", "linear2", "lin2")}


@dataclass(frozen=True)
class Place:
    """Where an adapter may sit.

    Args:
        name: the full name, unique in the model.
        role: what the layer does in its block; see the table above.
        block: the index of the transformer block from the input on, None outside the blocks.
        module: the name of the module that holds it.
        in_features: size of a token on its way in.
        out_features: size of what comes out: for an attention layer, the size of all its heads together.
        first_row: where the rows of a third of a fused matrix begin; 0 for all others.
    """

    name: str
    role: str
    block: int | None
    module: str
    in_features: int
    out_features: int
    first_row: int = 0

    @property
    def kind(self) -> str:
        """What can sit here: beside a weight ``linear``, beside a whole MLP ``mlp``, in an attention ``attention``."""
        return self.role if self.role in {"mlp", "attention"} else "linear"


def find_places(model: nn.Module) -> tuple[Place, ...]:
    """Return all places of ``model`` in the order of its modules."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = [(place, _block_of(inner)) for place, inner in _places(model, linears)]
    blocks = list(dict.fromkeys(block for _, block in found if block))
    # A place at the root, as in a model that is one linear layer, has no name to be called by.
    return tuple(_numbered(place, prefix, blocks) for place, prefix in found if place.module)


def _places(model: nn.Module, linears: dict[str, nn.Linear]) -> Iterator[tuple[Place, str]]:
    """Yield each place with the name of what is around its attention layer or MLP, "" where it is in neither."""
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            yield from _of_multihead(name, module)
        elif name in linears:
            yield from _of_linear(name, linears, owner=model.get_submodule(_parent(name)))
        else:
            yield from _of_parent(name, module, linears)


def _of_multihead(name: str, module: nn.MultiheadAttention) -> Iterator[tuple[Place, str]]:
    width, block = module.embed_dim, _parent(name)
    yield Place(name, "attention", None, name, width, width), block
    # Of other layouts, torch keeps three matrices or appends keys of its own: they have no place here.
    if module.in_proj_weight is not None and module.bias_k is None and not module.add_zero_attn:
        yield Place(f"{name}.in_proj", "qkv", None, name, width, 3 * width), block
        for position, role in enumerate("qkv"):
            yield Place(f"{name}.{role}", role, None, name, width, width, position * width), block


def _of_linear(name: str, linears: dict[str, nn.Linear], *, owner: nn.Module) -> Iterator[tuple[Place, str]]:
    layer, role = linears[name], _role(name, linears)
    whole = Place(name, role, None, name, layer.in_features, layer.out_features)
    block = _parent(_parent(name)) if role != "linear" else ""
    yield whole, block
    rows = layer.out_features // 3
    if role == "qkv" and _in_thirds(owner, rows):
        for position, third in enumerate("qkv"):
            yield (
                replace(whole, name=f"{name}.{third}", role=third, out_features=rows, first_row=position * rows),
                block,
            )


def _in_thirds(owner: nn.Module, rows: int) -> bool:
    """Tell whether an attention layer is known to split its fused matrix into queries, keys and values in this order.

    Some give each head its own queries, keys and values side by side; others (GCViT) have keys and values only, of
    which the projection after them tells. Of code that is not known, nothing is guessed.
    """
    known = type(owner).__module__.partition(".")[0] in _LIBRARIES
    by_head = bool(getattr(owner, "head_first", False)) or hasattr(owner, "key_dim")
    widths = {
        child.in_features for name, child in owner.named_children() if name in _OUTPUTS and isinstance(child, nn.Linear)
    }
    return known and not by_head and (not widths or rows in widths)


def _of_parent(name: str, module: nn.Module, linears: dict[str, nn.Linear]) -> Iterator[tuple[Place, str]]:
    """Yield the place of a whole MLP or a whole attention layer, which are known by their linear layers."""
    names = [f"{name}.{child}" for child, _ in module.named_children() if f"{name}.{child}" in linears]
    children = {_role(child, linears): linears[child] for child in names}
    if {"fc1", "fc2"} <= children.keys():
        first, last = children["fc1"], children["fc2"]
        yield Place(name, "mlp", None, name, first.in_features, last.out_features), _parent(name)
    fused, queries = children.get("qkv"), children.get("q")
    if fused is not None:
        yield Place(name, "attention", None, name, fused.in_features, fused.out_features // 3), _parent(name)
    elif queries is not None and {"k", "v", "o"} <= children.keys():
        yield Place(name, "attention", None, name, queries.in_features, queries.out_features), _parent(name)


def _role(name: str, linears: dict[str, nn.Linear]) -> str:
    parent, _, last = name.rpartition(".")
    siblings = {other.rpartition(".")[2] for other in linears if _parent(other) == parent}
    if last in _FUSED and linears[name].out_features % 3 == 0:
        return "qkv"
    for role, names in (_PROJECTIONS | _MLP).items():
        if last in names:
            return role
    in_attention = siblings & {*_FUSED, *_PROJECTIONS["q"]}
    if last in _OUTPUTS and (in_attention or isinstance(linears[name], NonDynamicallyQuantizableLinear)):
        return "o"
    if parent.rpartition(".")[2] == "mlp" and len(siblings) == 2 and all(other.isdigit() for other in siblings):
        return "fc1" if last == min(siblings, key=int) else "fc2"  # an nn.Sequential
    return "linear"


def _numbered(place: Place, prefix: str, blocks: list[str]) -> Place:
    if prefix in blocks:
        return replace(place, block=blocks.index(prefix))
    holder = next((index for index, block in enumerate(blocks) if place.module.startswith(f"{block}.")), None)
    return replace(place, block=holder)


def _block_of(name: str) -> str:
    """Return the innermost part of ``name`` that is one of many, as ``blocks.3`` or ``encoder_layer_3``, or ""."""
    while name and not re.search(r"(?:^|[._])\d+$", name):
        name = _parent(name)
    return name


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
