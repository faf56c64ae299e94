"""Generators of secret randomness."""

import secrets

import torch

__all__ = ["new_generator"]


def new_generator(device: torch.device | str, *, seed: int | None = None) -> torch.Generator:
    """Return a generator for noise or sampling.

    Args:
        device: where the numbers are drawn.
        seed: None takes 63 bits from the operating system's entropy; a number is for tests, and not secret.

    Guarantee:
        Without a seed it is independent of ``seed_everything`` and of every other generator.
    """
    generator = torch.Generator(device)
    generator.manual_seed(secrets.randbits(63) if seed is None else seed)
    return generator
