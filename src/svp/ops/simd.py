"""A vector of sixteen float32 lanes as a Numba value type; the lanes of the CPU kernels are channels.

Loops over a vector do not depend on what the loop vectorizer makes of them, and values stay in registers. LLVM maps the
vector to whatever the machine has: one AVX-512 register, two of AVX, four of SSE or NEON.

NaN and inf behave as in IEEE arithmetic: no instruction is flagged ``nnan`` or ``ninf``, nor ``reassoc``, which would undo the
rounding trick in ``exp2``. Importing this module imports Numba.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

from svp.ops.compiling import function, inlined
from svp.ops.rows import LANES

_FLAGS = ("contract", "nsz", "arcp", "afn")
# no arcp: a reciprocal refined by Newton's rule gives NaN for 1 / inf
_DIVISION_FLAGS = ("contract", "nsz")


class _VectorType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="svp_float32x16")


_VECTOR = _VectorType()
_LLVM_FLOAT = ir.FloatType()
_LLVM_INT = ir.IntType(32)
_LLVM_VECTOR = ir.VectorType(_LLVM_FLOAT, LANES)
_LLVM_INT_VECTOR = ir.VectorType(_LLVM_INT, LANES)
_LLVM_SHORT_VECTOR = ir.VectorType(ir.IntType(16), LANES)
_CPU_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")  # what Numba compiles for, and its cache's key
HAS_BF16 = "+avx512bf16" in _CPU_FEATURES


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, frontend_type: Any) -> None:
        super().__init__(manager, frontend_type, _LLVM_VECTOR)


def _define_operator(python_operator: Any, instruction: str, flags: tuple[str, ...]) -> None:
    @infer_global(python_operator)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            return signature(_VECTOR, _VECTOR, _VECTOR) if args == (_VECTOR, _VECTOR) else None

    @lower_builtin(python_operator, _VECTOR, _VECTOR)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args, flags=flags)


_define_operator(operator.add, "fadd", _FLAGS)
_define_operator(operator.sub, "fsub", _FLAGS)
_define_operator(operator.mul, "fmul", _FLAGS)
_define_operator(operator.truediv, "fdiv", _DIVISION_FLAGS)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


def _splat(builder: Any, scalar: Any) -> Any:
    vector = builder.insert_element(ir.Constant(_LLVM_VECTOR, ir.Undefined), scalar, ir.Constant(_LLVM_INT, 0))
    mask = ir.Constant(_LLVM_INT_VECTOR, [0] * LANES)
    return builder.shuffle_vector(vector, ir.Constant(_LLVM_VECTOR, ir.Undefined), mask)


def _load(builder: Any, pointer: Any) -> Any:
    vector = builder.load(builder.bitcast(pointer, _LLVM_VECTOR.as_pointer()))
    vector.align = 4
    return vector


def _ints(value: int) -> Any:
    return ir.Constant(_LLVM_INT_VECTOR, [value] * LANES)


class _BFloat(ir.Type):  # type: ignore[misc]
    """bfloat16, which llvmlite does not know and LLVM does."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def _upper_halves(builder: Any, vector: Any) -> Any:
    """The bfloat16 next to every lane."""
    if HAS_BF16:
        halves = ir.VectorType(_BFloat(), LANES)
        convert = ir.FunctionType(halves, [_LLVM_VECTOR])
        function = cgutils.get_or_insert_function(builder.module, convert, "llvm.x86.avx512bf16.cvtneps2bf16.512")
        return builder.bitcast(builder.call(function, [vector]), _LLVM_SHORT_VECTOR)
    # by integers: not every machine links LLVM's own truncation
    bits = builder.bitcast(vector, _LLVM_INT_VECTOR)
    odd = builder.and_(builder.lshr(bits, _ints(16)), _ints(1))
    rounded = builder.add(bits, builder.add(odd, _ints(0x7FFF)))
    quiet = builder.or_(bits, _ints(0x400000))  # rounding could turn a NaN into inf
    bits = builder.select(builder.fcmp_unordered("uno", vector, vector), quiet, rounded)
    return builder.trunc(builder.lshr(bits, _ints(16)), _LLVM_SHORT_VECTOR)


@intrinsic
def load(typing: Any, array: Any, offset: Any) -> Any:
    """Sixteen values of a C-contiguous array of any rank from the flat `offset` on; bounds are not checked.

    The array is float32, or bfloat16 as int16, which NumPy has and bfloat16 not: the upper half of a float32.
    """

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[0], *args)
        if array.dtype == types.float32:
            return _load(builder, pointer)
        halves = builder.load(builder.bitcast(pointer, _LLVM_SHORT_VECTOR.as_pointer()))
        halves.align = 2
        return builder.bitcast(builder.shl(builder.zext(halves, _LLVM_INT_VECTOR), _ints(16)), _LLVM_VECTOR)

    return _VECTOR(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, offset: Any, vector: Any) -> Any:
    """Write sixteen values, addressed as in ``load``; to bfloat16 they are rounded to the nearest, ties to even.

    The instruction for it of some processors makes zero of what is below 2**-126, as their products of bfloat16 do.
    """

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1])
        if array.dtype == types.float32:
            builder.store(args[2], builder.bitcast(pointer, _LLVM_VECTOR.as_pointer())).align = 4
        else:
            halves = _upper_halves(builder, args[2])
            builder.store(halves, builder.bitcast(pointer, _LLVM_SHORT_VECTOR.as_pointer())).align = 2
        return context.get_dummy_value()

    return types.void(array, types.intp, _VECTOR), generate


@intrinsic
def broadcast(typing: Any, array: Any, offset: Any) -> Any:
    """The value at the flat `offset` of a float32 array in every lane."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, builder.load(_pointer(context, builder, sig.args[0], *args)))

    return _VECTOR(array, types.intp), generate


@intrinsic
def splat(typing: Any, scalar: Any) -> Any:
    """A float32 scalar in every lane."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, args[0])

    return _VECTOR(types.float32), generate


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the machine has an instruction for it."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        function_type = ir.FunctionType(_LLVM_VECTOR, [_LLVM_VECTOR] * 3)
        # not llvm.fma: without the instruction that one calls libm for every lane
        function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.fmuladd.v{LANES}f32")
        return builder.call(function, args)

    return _VECTOR(_VECTOR, _VECTOR, _VECTOR), generate


def _select(comparison: str) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(comparison, args[0], args[1]), args[1], args[0])

    return generate


@intrinsic
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """The larger one; NaN where `a` is NaN."""
    return _VECTOR(_VECTOR, _VECTOR), _select("<")


@intrinsic
def minimum(typing: Any, a: Any, b: Any) -> Any:
    """The smaller one; NaN where `a` is NaN."""
    return _VECTOR(_VECTOR, _VECTOR), _select(">")


def _masked(name: str, *between: Any) -> Any:
    """Code for an AVX-512 instruction on whole vectors that LLVM knows in its masked form only."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        all_lanes, rounding_as_set = ir.Constant(ir.IntType(LANES), -1), ir.Constant(_LLVM_INT, 4)
        arguments = [*args, *between, ir.Constant(_LLVM_VECTOR, ir.Undefined), all_lanes, rounding_as_set]
        function_type = ir.FunctionType(_LLVM_VECTOR, [argument.type for argument in arguments])
        function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.x86.avx512.mask.{name}.ps.512")
        return builder.call(function, arguments)

    return generate


@intrinsic
def _from_nearest_integer(typing: Any, x: Any) -> Any:
    """x - round(x), 0 for inf; AVX-512 only."""
    return _VECTOR(_VECTOR), _masked("reduce", ir.Constant(_LLVM_INT, 0))


@intrinsic
def _scaled(typing: Any, p: Any, n: Any) -> Any:
    """p * 2**n for whole n; AVX-512 only."""
    return _VECTOR(_VECTOR, _VECTOR), _masked("scalef")


@intrinsic
def _float_from_low_bits(typing: Any, vector: Any) -> Any:
    """The float whose sign and exponent fields are the low nine bits of `vector`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(builder.shl(builder.bitcast(args[0], _LLVM_INT_VECTOR), _ints(23)), _LLVM_VECTOR)

    return _VECTOR(_VECTOR), generate


@intrinsic
def lane_pair_sums(typing: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
    """Eight vectors -> for each in order the sums of its even and of its odd lanes."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vectors, apart = list(args), LANES // 2
        while len(vectors) > 1:
            # sums of lanes `apart`: of the first vector where that bit of the lane is 0, of the second where it is 1
            half = len(vectors) // 2
            own = [lane + LANES * bool(lane & apart) for lane in range(LANES)]
            other = [(lane ^ apart) + LANES * bool(lane & apart) for lane in range(LANES)]
            masks = [ir.Constant(_LLVM_INT_VECTOR, lanes) for lanes in (own, other)]
            vectors = [
                builder.fadd(*(builder.shuffle_vector(x, y, mask) for mask in masks), flags=_FLAGS)
                for x, y in zip(vectors[:half], vectors[half:], strict=True)
            ]
            apart //= 2
        return vectors[0]

    return _VECTOR(*[_VECTOR] * 8), generate


@intrinsic
def lanes_by_pairs(typing: Any, vector: Any) -> Any:
    """Sums of lanes 0 and 1, 2 and 3, ...: eight, twice."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        masks = [ir.Constant(_LLVM_INT_VECTOR, [2 * lane % LANES + odd for lane in range(LANES)]) for odd in range(2)]
        undefined = ir.Constant(_LLVM_VECTOR, ir.Undefined)
        return builder.fadd(*(builder.shuffle_vector(args[0], undefined, mask) for mask in masks), flags=_FLAGS)

    return _VECTOR(_VECTOR), generate


@inlined
def empty(size):
    """A flat float32 array that starts at a cache line; Numba's own may make every vector straddle two."""
    space = np.empty(size + LANES, np.float32)
    skipped = (-(space.ctypes.data // 4)) % LANES
    return space[skipped : skipped + size]


@function
def clear(array):
    """Zeros everywhere in an array of whole vectors; an assignment would be compiled as a parallel loop of its own."""
    for at in range(0, array.size, LANES):
        store(array, at, splat(np.float32(0)))


LOG2_E = np.float32(1.4426950408889634)

_ZERO, _ONE = np.float32(0), np.float32(1)
# minimax in relative error on [-0.5, 0.5], value 1 at 0: 2**r = 1 + r (E1 + r (E2 + ...)), error 9e-8
_E1, _E2, _E3, _E4, _E5 = (
    np.float32(c)
    for c in (0.693146977596393, 0.24022242083557122, 0.055507337472238405, 0.009671512723051369, 0.0013264726003898244)
)
# minimax in relative error on [0, 1]: log1p(u) = u (L0 + u (L1 + ...)), error 3e-8
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (
    np.float32(c)
    for c in (
        0.999999969879,
        -0.499994931379,
        0.333190967545,
        -0.248429817913,
        0.191060051078,
        -0.136632422793,
        0.078225910436,
        -0.029505213329,
        0.005232687914,
    )
)
# adding 1.5 * 2**23 leaves the nearest integer in the low bits of a float; 127 more makes it an exponent field
_ROUND_TO_EXPONENT = np.float32(1.5 * 2**23 + 127)
_LOWEST_EXPONENT, _HIGHEST_EXPONENT = np.float32(-127), np.float32(128)  # fields of 0 and inf


@inlined
def _exp2_near_0(r):
    """2**r for -0.5 <= r <= 0.5"""
    p = fma(r, splat(_E5), splat(_E4))
    p = fma(r, p, splat(_E3))
    p = fma(r, p, splat(_E2))
    p = fma(r, p, splat(_E1))
    return fma(r, p, splat(_ONE))


@inlined
def exp2_by_bits(x):
    """2**x on any machine, twelve instructions; 0 below 2**-126, inf from 2**127.5 on."""
    x = maximum(minimum(x, splat(_HIGHEST_EXPONENT)), splat(_LOWEST_EXPONENT))
    shifted = x + splat(_ROUND_TO_EXPONENT)
    return _exp2_near_0(x - (shifted - splat(_ROUND_TO_EXPONENT))) * _float_from_low_bits(shifted)


@inlined
def exp2_by_avx512(x):
    """2**x in eight instructions; unlike ``exp2_by_bits`` down to the smallest float, 2**-149, and up to 2**128."""
    r = _from_nearest_integer(x)
    return _scaled(_exp2_near_0(r), x - r)


# what Numba compiles for, and its cache's key
HAS_AVX512 = "+avx512dq" in _CPU_FEATURES
exp2 = exp2_by_avx512 if HAS_AVX512 else exp2_by_bits
"""2**x: relative error 9e-8, the limits 0 and inf, NaN for NaN."""


@inlined
def sigmoid(x):
    """1 / (1 + exp(-x))"""
    return splat(_ONE) / (splat(_ONE) + exp2(x * splat(-LOG2_E)))


@inlined
def softplus(x):
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))"""
    u = exp2(maximum(x, splat(_ZERO) - x) * splat(-LOG2_E))
    p = fma(u, splat(_L8), splat(_L7))
    p = fma(u, p, splat(_L6))
    p = fma(u, p, splat(_L5))
    p = fma(u, p, splat(_L4))
    p = fma(u, p, splat(_L3))
    p = fma(u, p, splat(_L2))
    p = fma(u, p, splat(_L1))
    p = fma(u, p, splat(_L0))
    return fma(u, p, maximum(x, splat(_ZERO)))
