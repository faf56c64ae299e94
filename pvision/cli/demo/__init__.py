"""`pvision demo`: MaskDP against its rivals on real motion, at equal ε, in a few minutes on two cores."""

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the demo with the words after ``pvision demo``; return 0."""
    from pvision.cli.demo.run import run

    return run(argv)
