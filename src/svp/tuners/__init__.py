"""Tuning methods: one file each, all under one contract (``Method``)."""

from svp.tuners.adapter import Adapter
from svp.tuners.adapter_files import AdapterInfo, load_adapter, read_adapter_info, save_adapter
from svp.tuners.additional_scan import AdditionalScan
from svp.tuners.affix import Affix
from svp.tuners.attachment import Attachment
from svp.tuners.block_entry import BlockEntry
from svp.tuners.dam_vp import DAMVP
from svp.tuners.full import FullTuning
from svp.tuners.initial_state import InitialState
from svp.tuners.layout import AddedTokens, Layout
from svp.tuners.linear import LinearProbe
from svp.tuners.lora import DoRA, LoRA, LoRAPartial
from svp.tuners.memba import Memba
from svp.tuners.method import (
    Method,
    get_methods,
    joined_name,
    list_methods,
    method_title,
    methods_to_dict,
    parse_methods,
    register_method,
)
from svp.tuners.official import load_official
from svp.tuners.parts import A, BitFit, ClsToken, Conv1d, D, Norm, Partial, PartMethod, PosEmbed
from svp.tuners.prodial import ProDiaL
from svp.tuners.readout import Readout
from svp.tuners.saa import SAA
from svp.tuners.spt import SPTDeep, SPTShallow
from svp.tuners.ssf import SSF
from svp.tuners.ssp import SSP
from svp.tuners.state_offset import StateOffset
from svp.tuners.svp import SVP, Prompters, simam
from svp.tuners.tuner import Tuner
from svp.tuners.tuning import fit, tune
from svp.tuners.vp import VP
from svp.tuners.vpt import VPTDeep, VPTShallow

__all__ = [
    "DAMVP",
    "SAA",
    "SSF",
    "SSP",
    "SVP",
    "VP",
    "A",
    "Adapter",
    "AdapterInfo",
    "AddedTokens",
    "AdditionalScan",
    "Affix",
    "Attachment",
    "BitFit",
    "BlockEntry",
    "ClsToken",
    "Conv1d",
    "D",
    "DoRA",
    "FullTuning",
    "InitialState",
    "Layout",
    "LinearProbe",
    "LoRA",
    "LoRAPartial",
    "Memba",
    "Method",
    "Norm",
    "PartMethod",
    "Partial",
    "PosEmbed",
    "ProDiaL",
    "Prompters",
    "Readout",
    "SPTDeep",
    "SPTShallow",
    "StateOffset",
    "Tuner",
    "VPTDeep",
    "VPTShallow",
    "fit",
    "get_methods",
    "joined_name",
    "list_methods",
    "load_adapter",
    "load_official",
    "method_title",
    "methods_to_dict",
    "parse_methods",
    "read_adapter_info",
    "register_method",
    "save_adapter",
    "simam",
    "tune",
]
