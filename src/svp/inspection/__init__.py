"""Look inside: what the gates of a Vim do on images, as numbers and as figures."""

from svp.inspection.recording import GATES, Gates, HiddenAttention, ScanGates, SVPPrompts, gates

__all__ = ["GATES", "Gates", "HiddenAttention", "SVPPrompts", "ScanGates", "gates"]
