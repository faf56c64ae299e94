"""Data modules: clips, their masks and both views of each record."""

if __name__ != "pvision.datamodules":
    raise ImportError(f"import these as `pvision.datamodules`, not as {__name__!r}, which would make other classes")

__all__: list[str] = []
