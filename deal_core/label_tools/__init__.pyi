# The names that users may rely on; each is imported when it is first used.
from .exporting import export_masks
from .importing import ClassImport, ImportSettings, ImportSummary, import_masks
from .open import open_masks

__all__ = [
    "ClassImport",
    "ImportSettings",
    "ImportSummary",
    "export_masks",
    "import_masks",
    "open_masks",
]
