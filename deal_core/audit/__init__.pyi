# The names that users may rely on; each is imported when it is first used.
from .audit import AuditSettings, audit_dataset
from .result import Audit, NextFrame, PlaceShortcut, WrongTag, WrongTags

__all__ = ["Audit", "AuditSettings", "NextFrame", "PlaceShortcut", "WrongTag", "WrongTags", "audit_dataset"]
