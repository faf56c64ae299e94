"""`pvision compare`: runs side by side, with confidence intervals, tests and pictures."""

__all__: list[str] = []
