"""Pillow's bilinear and bicubic resize to the bit, at several times its speed: its integers, sixteen lanes at a time.

A pixel is a sum of pixels times weights of 22 fractional bits, rounded to 8 bits: along the rows first, then down the columns.
Importing this module imports Numba and compiles: do so before worker processes are forked, then they need not. The kernel is
serial, so it runs in forked processes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from PIL import Image

from svp.ops.compiling import cgutils, compiled_for
from svp.resizing import Kept, filter_weights

_BITS = 22  # of the weights, as in Pillow
_TAPS = 4  # pixels at a time
_BYTE, _INT = ir.IntType(8), ir.IntType(32)
_BYTES, _INTS = ir.VectorType(_BYTE, 16), ir.VectorType(_INT, 16)
_PIXEL_BYTES, _PIXEL = ir.VectorType(_BYTE, 4), ir.VectorType(_INT, 4)


def resize(
    image: Image.Image, size: tuple[int, int], method: Image.Resampling, kept: tuple[int, int, int, int] | None = None
) -> Image.Image:
    """What ``image.resize(size, method).crop(kept)`` gives, to the bit.

    Args:
        image: RGB, at most 100 times as high as wide (Pillow 12.2 begins with the columns of a higher one).
        size: Width and height that the whole image would get.
        method: The filter.
        kept: Left, top, right and bottom of the part that is made, within `size`, at least
            `svp.resizing.LEAST` wide; all if None.
    """
    left, top, right, bottom = kept or (0, 0, *size)
    lefts, weights = filter_weights(image.width, Kept(size[0], left, right - left), method)
    tops, down = filter_weights(image.height, Kept(size[1], top, bottom - top), method)
    columns, taps = weights.shape
    across = np.zeros((columns, -(-taps // _TAPS) * _TAPS, 4), np.int32)
    across[:, :taps, :3] = weights[..., None]
    row_copy = np.empty(3 * (image.width + across.shape[1]) + 16, np.uint8)
    between = np.empty(3 * columns * (tops[-1] - tops[0] + down.shape[1]) + 16, np.uint8)
    made = np.empty((bottom - top, columns, 3), np.uint8)
    pixels = np.asarray(image).reshape(-1)
    _resize(pixels, image.width, lefts, across.reshape(-1), tops, down.reshape(-1), row_copy, between, made.reshape(-1))
    return Image.fromarray(made)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any, kind: Any) -> Any:
    pointer = builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])
    return builder.bitcast(pointer, kind.as_pointer())


def _load(builder: Any, pointer: Any, align: int) -> Any:
    loaded = builder.load(pointer)
    loaded.align = align
    return loaded


def _shuffled(builder: Any, vector: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_INT, len(lanes)), lanes))


def _constant(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _to_bytes(builder: Any, sums: Any) -> Any:
    """Rounded sums without their fractional bits, 0..255."""
    kind = sums.type
    values = builder.ashr(sums, _constant(kind, _BITS))
    low, high = _constant(kind, 0), _constant(kind, 255)
    values = builder.select(builder.icmp_signed("<", values, low), low, values)
    values = builder.select(builder.icmp_signed(">", values, high), high, values)
    return builder.trunc(values, ir.VectorType(_BYTE, kind.count))


@intrinsic
def _along(typing: Any, source: Any, start: Any, weights: Any, first: Any, steps: Any, out: Any, place: Any) -> Any:
    """Write the sum of 4 `steps` pixels from byte `start` on, times weights (steps, 4, 4), to byte `place`; and a byte more.

    A step reads four bytes beyond its pixels.
    """

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source, start, weights, first, steps, out, place = args
        total = cgutils.alloca_once_value(builder, _constant(_INTS, 0))
        with cgutils.for_range(builder, steps) as loop:
            at = builder.add(start, builder.mul(loop.index, ir.Constant(start.type, 3 * _TAPS)))
            pixels = _load(builder, _pointer(context, builder, sig.args[0], source, at, _BYTES), 1)
            spread = _shuffled(builder, pixels, [3 * (lane // 4) + lane % 4 for lane in range(16)])
            where = builder.add(first, builder.mul(loop.index, ir.Constant(first.type, 16)))
            factors = _load(builder, _pointer(context, builder, sig.args[2], weights, where, _INTS), 4)
            builder.store(builder.add(builder.load(total), builder.mul(builder.zext(spread, _INTS), factors)), total)
        sums = builder.load(total)
        sums = builder.add(_shuffled(builder, sums, [*range(8)]), _shuffled(builder, sums, [*range(8, 16)]))
        sums = builder.add(_shuffled(builder, sums, [*range(4)]), _shuffled(builder, sums, [*range(4, 8)]))
        pixel = _to_bytes(builder, builder.add(sums, _constant(_PIXEL, 1 << (_BITS - 1))))
        builder.store(pixel, _pointer(context, builder, sig.args[5], out, place, _PIXEL_BYTES)).align = 1
        return context.get_dummy_value()

    return types.void(source, types.intp, weights, types.intp, types.intp, out, types.intp), generate


@intrinsic
def _down(typing: Any, source: Any, start: Any, stride: Any, weights: Any, first: Any, taps: Any, out: Any, place: Any) -> Any:
    """Write sixteen sums of `taps` bytes, `stride` apart from `start` on, times weights from `first` on, to byte `place`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source, start, stride, weights, first, taps, out, place = args
        total = cgutils.alloca_once_value(builder, _constant(_INTS, 1 << (_BITS - 1)))
        with cgutils.for_range(builder, taps) as loop:
            at = builder.add(start, builder.mul(loop.index, stride))
            values = _load(builder, _pointer(context, builder, sig.args[0], source, at, _BYTES), 1)
            where = builder.add(first, loop.index)
            factor = builder.load(_pointer(context, builder, sig.args[3], weights, where, _INT))
            one = builder.insert_element(ir.Constant(_INTS, ir.Undefined), factor, ir.Constant(_INT, 0))
            factors = _shuffled(builder, one, [0] * 16)
            builder.store(builder.add(builder.load(total), builder.mul(builder.zext(values, _INTS), factors)), total)
        made = _to_bytes(builder, builder.load(total))
        builder.store(made, _pointer(context, builder, sig.args[6], out, place, _BYTES)).align = 1
        return context.get_dummy_value()

    intp = types.intp
    return types.void(source, intp, intp, weights, intp, intp, out, intp), generate


@compiled_for(
    "void(Array(uint8, 1, 'C', True), intp, int64[::1], int32[::1], int64[::1], int32[::1],uint8[::1], uint8[::1], uint8[::1])"
)
def _resize(image, width, lefts, across, tops, down, row_copy, between, out):
    """Fill `out` with sums of `image`, along its rows and then down its columns; all arrays are flat.

    Args:
        width: Columns of the image.
        lefts: First column that is summed, per column of `out`.
        across: Weights along the rows, (columns of `out`, steps, 4, 4).
        tops: First row that is summed, per row of `out`; none is below the one before.
        down: Weights down the columns, (rows of `out`, taps).
        row_copy: Room for a row that the image ends too soon behind, with the bytes that a step may read behind it.
        between: Room for the sums along the rows, and 16 bytes.
    """
    height = image.size // (3 * width)
    columns, rows = lefts.size, tops.size
    steps, taps = across.size // (16 * columns), down.size // rows
    length = 3 * columns
    begin, end = tops[0], min(tops[rows - 1] + taps, height)
    for row in range(begin, end):
        inside = 3 * (height - 1 - row) * width >= row_copy.size - 3 * width
        if not inside:
            for k in range(3 * width):
                row_copy[k] = image[3 * row * width + k]
        for column in range(columns):
            place = (row - begin) * length + 3 * column
            if inside:
                _along(image, 3 * (row * width + lefts[column]), across, 16 * column * steps, steps, between, place)
            else:
                _along(row_copy, 3 * lefts[column], across, 16 * column * steps, steps, between, place)
    for row in range(rows):
        begun = (tops[row] - begin) * length
        summed = min(taps, height - tops[row])
        for block in range((length + 15) // 16):
            place = min(block * 16, length - 16)
            _down(between, begun + place, length, down, row * taps, summed, out, row * length + place)
