# The names that users may rely on; each is imported when it is first used.
from .page import create_app
from .store import TagStore

__all__ = [
    "TagStore",
    "create_app",
]
