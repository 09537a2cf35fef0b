"""Turn the result of a run into a plain Hugging Face folder that works without tunewell."""

from .merge import Difference, Exported, export_model

__all__ = ["Difference", "Exported", "export_model"]
