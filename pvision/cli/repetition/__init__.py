"""`pvision repeat`: one configuration under several seeds and class orders."""

__all__: list[str] = []
