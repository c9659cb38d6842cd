"""Tuning methods: one file each, all under one contract (``Tuner``)."""

from svp.tuners.adapter import AdapterConfig, AdapterTuner
from svp.tuners.adapter_files import AdapterInfo, load_adapter, read_adapter_info, save_adapter
from svp.tuners.affix import AffixConfig, AffixTuner
from svp.tuners.base import MethodConfig, Tuner, get_method, list_methods, register_method, tune
from svp.tuners.full import FullConfig, FullTuner
from svp.tuners.linear import LinearConfig, LinearTuner
from svp.tuners.official import load_official
from svp.tuners.parts import PartConfig, PartialConfig, PartTuner
from svp.tuners.svp import Prompters, SVPConfig, SVPTuner, simam
from svp.tuners.vp import VPConfig, VPTuner
from svp.tuners.vpt import VPTConfig, VPTDeepTuner, VPTShallowTuner

__all__ = [
    "AdapterConfig",
    "AdapterInfo",
    "AdapterTuner",
    "AffixConfig",
    "AffixTuner",
    "FullConfig",
    "FullTuner",
    "LinearConfig",
    "LinearTuner",
    "MethodConfig",
    "PartConfig",
    "PartTuner",
    "PartialConfig",
    "Prompters",
    "SVPConfig",
    "SVPTuner",
    "Tuner",
    "VPConfig",
    "VPTConfig",
    "VPTDeepTuner",
    "VPTShallowTuner",
    "VPTuner",
    "get_method",
    "list_methods",
    "load_adapter",
    "load_official",
    "read_adapter_info",
    "register_method",
    "save_adapter",
    "simam",
    "tune",
]
