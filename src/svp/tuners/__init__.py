"""Tuning methods: one file each, all under one contract (``Tuner``)."""

from svp.tuners.adapter import AdapterConfig, AdapterMethod
from svp.tuners.adapter_files import AdapterInfo, load_adapter, read_adapter_info, save_adapter
from svp.tuners.additional_scan import AdditionalScanConfig, AdditionalScanMethod
from svp.tuners.affix import AffixConfig, AffixMethod
from svp.tuners.base import (
    Method,
    MethodConfig,
    get_methods,
    list_methods,
    make_methods,
    method_title,
    options_of,
    register_method,
)
from svp.tuners.full import FullConfig, FullMethod
from svp.tuners.linear import LinearConfig, LinearMethod
from svp.tuners.lora import DoRAMethod, LoRAConfig, LoRAMethod, LoRAPartialConfig, LoRAPartialMethod
from svp.tuners.official import load_official
from svp.tuners.parts import PartConfig, PartialConfig, PartMethod
from svp.tuners.ssf import SSFConfig, SSFMethod
from svp.tuners.svp import Prompters, SVPConfig, SVPMethod, simam
from svp.tuners.tuner import Tuner, tune
from svp.tuners.vp import VPConfig, VPMethod
from svp.tuners.vpt import VPTConfig, VPTDeepMethod, VPTShallowMethod

__all__ = [
    "AdapterConfig",
    "AdapterInfo",
    "AdapterMethod",
    "AdditionalScanConfig",
    "AdditionalScanMethod",
    "AffixConfig",
    "AffixMethod",
    "DoRAMethod",
    "FullConfig",
    "FullMethod",
    "LinearConfig",
    "LinearMethod",
    "LoRAConfig",
    "LoRAMethod",
    "LoRAPartialConfig",
    "LoRAPartialMethod",
    "Method",
    "MethodConfig",
    "PartConfig",
    "PartMethod",
    "PartialConfig",
    "Prompters",
    "SSFConfig",
    "SSFMethod",
    "SVPConfig",
    "SVPMethod",
    "Tuner",
    "VPConfig",
    "VPMethod",
    "VPTConfig",
    "VPTDeepMethod",
    "VPTShallowMethod",
    "get_methods",
    "list_methods",
    "load_adapter",
    "load_official",
    "make_methods",
    "method_title",
    "options_of",
    "read_adapter_info",
    "register_method",
    "save_adapter",
    "simam",
    "tune",
]
