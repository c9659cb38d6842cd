"""Arithmetic of a Vision Mamba block. Channel-last: sequences are (batch, length, channels).

Each op is a folder with one implementation per backend behind one public function; ``reference`` is the definition.
"""

from svp.ops.add_rms_norm import LinearPrompt, Prompt, Prompts, add_prompts, add_rms_norm
from svp.ops.backend import BACKENDS, explain, use_backend
from svp.ops.bidirectional_scan import Direction, bidirectional_scan
from svp.ops.causal_conv1d import causal_conv1d
from svp.ops.linear import conv2d, linear
from svp.ops.selective_scan import selective_scan
from svp.versions import check_versions

__all__ = [
    "BACKENDS",
    "Direction",
    "LinearPrompt",
    "Prompt",
    "Prompts",
    "add_prompts",
    "add_rms_norm",
    "bidirectional_scan",
    "causal_conv1d",
    "conv2d",
    "explain",
    "linear",
    "selective_scan",
    "use_backend",
]

check_versions()
