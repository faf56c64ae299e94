"""What a result came from: versions, commit, seed, memory."""

import os
import platform
import subprocess
import sys
from importlib import metadata

import torch

__all__ = ["git_commit", "peak_memory", "seed", "versions"]

_PACKAGES = ("pvision", "torch", "lightning", "mlflow", "dp-accounting")


def versions() -> dict[str, str]:
    """Return the versions of Python and of those packages that matter here and are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit checked out in the working folder, None outside a repository or without git."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def seed() -> int | None:
    """Return the seed that Lightning's ``seed_everything`` set last, None if it was not called."""
    value = os.environ.get("PL_GLOBAL_SEED")
    return int(value) if value is not None else None


def peak_memory() -> dict[str, float]:
    """Return the most memory this process has held so far, and the most GPU memory if it used one, in MiB."""
    found: dict[str, float] = {}
    if sys.platform != "win32":
        import resource  # absent on Windows

        units_per_mib = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
        found["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units_per_mib
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        found["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return found
