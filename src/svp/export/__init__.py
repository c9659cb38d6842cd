"""A trained adapter as one file that runs without svp: ONNX, or a program of ``torch.export``."""

from svp.export.check import Comparison, ExportError
from svp.export.run import Exported, export_run

__all__ = ["Comparison", "ExportError", "Exported", "export_run"]
