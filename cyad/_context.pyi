"""Types of the contexts."""

class Context:
    @property
    def level(self) -> int: ...
    @property
    def strong(self) -> bool: ...
