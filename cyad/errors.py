"""What cyad raises. All of it derives from :class:`ADError`, and from the builtin that a user would expect.

None derives from AttributeError: ``hasattr`` and ``getattr`` with a default would swallow it, and a lost
derivative would look like a missing attribute.
"""


class ADError(Exception):
    """Base of everything that cyad raises by itself."""


class ActivityError(ADError, TypeError):
    """An annotation, a shadow or a mode that does not fit the value it came with."""


class ActiveStoreError(ADError, TypeError):
    """An active value was about to enter memory, or a plain number, that cannot carry its derivative."""


class MissingRuleError(ADError, NotImplementedError):
    """A function met an active value and no rule says what its derivative is."""


class EscapedValueError(ADError, RuntimeError):
    """A tracked value was used after the call that it belongs to had ended."""


class LockedArrayError(ADError, ValueError):
    """A captured array that the tape refers to was about to be written."""


class TapeError(ADError, RuntimeError):
    """A tape was used in a way that its state does not allow."""
