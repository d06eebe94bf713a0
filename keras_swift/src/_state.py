"""States: all that an object needs to continue as if it had never stopped, in one value."""

from __future__ import annotations

from typing import ClassVar


class SavedState:
    """What `state` returns and `restore` takes; a subclass is a frozen dataclass.

    Fields hold numbers, strings, arrays, other states, or lists and dicts of these. Files name a
    state by its class, so two classes must not have one name.
    """

    KINDS: ClassVar[dict[str, type[SavedState]]] = {}

    def __init_subclass__(cls) -> None:
        cls.KINDS[cls.__name__] = cls
