"""How the pictures of the benchmarks place names beside dots."""

__all__ = ["LEADER", "free_height"]

LEADER = {"arrowstyle": "-", "color": "#c3cad1", "linewidth": 0.7}
"""The line from a name that had to move to its dot."""


def free_height(taken: list[tuple[float, float]], across: float, height: float, *, near: float, gap: float) -> float:
    """Return the first height from here up that no name takes which is so near, and note it as taken."""
    while any(abs(across - x) < near and abs(height - y) < gap for x, y in taken):
        height += 0.3
    taken.append((across, height))
    return height
