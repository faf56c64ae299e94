"""Which weights have cost ε already: a second run on them would begin a new ledger, which does not know the first."""

from torch import nn

__all__ = ["have_spent", "note_spending"]

_NOTE = "_trained_privately"


def note_spending(module: nn.Module) -> None:
    """Note on every layer that learns that noisy steps made its weights; copies of the layer carry the note too."""
    for layer in module.modules():
        if any(parameter.requires_grad for parameter in layer.parameters(recurse=False)):
            setattr(layer, _NOTE, True)


def have_spent(module: nn.Module) -> bool:
    """Return whether a layer of ``module`` was trained privately in this process, or is a copy of one that was."""
    return any(getattr(layer, _NOTE, False) for layer in module.modules())
