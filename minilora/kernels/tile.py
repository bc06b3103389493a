"""The register tile: the one piece of the kernels that is shaped by the hardware.

A matrix product is fast when almost every instruction is a fused multiply-add on a full vector register. So the tile
keeps a block of the result, MR rows by 16·nv columns, in registers while it walks along the depth k. At each k it

    loads     nv vectors of 16 neighbours from row k of B,
    spreads   MR numbers of column k of A over a vector each,
    multiplies and adds them: MR · nv fused operations, one for each register of the block,

which for 8 x 48 is 24 multiply-adds for 11 loads, and nothing is stored until the walk ends. A loop over arrays cannot
say this: LLVM does not keep an array in registers. So the tile is written in LLVM's own language, as an `@intrinsic`: a
function that writes instructions, here with `b`, the builder, when the kernel that calls it is compiled. It speaks of
vectors of 16 floats on every machine; LLVM cuts them into what there is (one AVX-512 register, two of AVX2, four of NEON).

    C[p:p+rows, q:q+cols] (+)= A[i:i+rows, k:k+depth] B[l:l+depth, j:j+cols],   rows <= MR, cols <= 16·nv

A has any strides, so a transpose and a head of an attention are read where they are. B and C have neighbouring columns.
Edges cost no other code: a missing row of A repeats the last one and is not stored, missing columns are masked when C is
stored. B is loaded in full vectors, up to the next 16 columns (a packed panel has them), except by the `ragged` tile,
which loads what it needs and no more.

How large the block may be follows from the registers: 32 of 16 floats hold 8 x 48 and leave 8 for B and A; 16 of 8
floats (AVX2) and 32 of 4 (NEON) hold 6 x 16; 16 of 4 hold 2 x 16. A larger block would spill into memory at every step.

Where JIT is disabled, intrinsics do not work, and `plain` says the same in one line of NumPy.
"""

import platform

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

LANES = 16
FLOAT, INT, BYTE = ir.FloatType(), ir.IntType(64), ir.IntType(8)
VECTOR = ir.VectorType(FLOAT, LANES)
MASK = ir.VectorType(ir.IntType(1), LANES)
ZERO = ir.Constant(VECTOR, [0.0] * LANES)


def _block_size():
    """(MR, NR): rows and columns of the largest block whose registers this processor has."""
    if config.DISABLE_JIT:
        return 8, 48
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    if "+avx512f" in features:
        return 8, 48
    if "+avx2" in features or platform.machine().lower() in ("arm64", "aarch64"):
        return 6, 16
    return 2, 16


MR, NR = _block_size()


def plain(A, i, k, B, l, j, C, p, q, depth, rows, cols, add):
    """The tile's definition, and the tile itself where JIT is disabled."""
    old = C[p : p + rows, q : q + cols]
    new = A[i : i + rows, k : k + depth] @ B[l : l + depth, j : j + cols]
    old[:] = old + new if add else new


def make_tile(nv: int, ragged: bool = False):
    """A tile of MR rows and 16·nv columns, as a function for compiled code; add is a bool, the sizes are ints."""
    if config.DISABLE_JIT:
        return plain

    @intrinsic
    def tile(typing, A, i, k, B, l, j, C, p, q, depth, rows, cols, add):
        signature = types.void(A, i, k, B, l, j, C, p, q, depth, rows, cols, add)

        def codegen(context, b, signature, values):
            a, bb, c = (_Matrix(context, b, signature.args[n], values[n]) for n in (0, 3, 6))
            numbers = [context.cast(b, values[n], signature.args[n], types.int64)
                       for n in (1, 2, 4, 5, 7, 8, 9, 10, 11)]  # fmt: skip
            i, k, l, j, p, q, depth, rows, cols = numbers
            masks = _masks(b, cols, nv)
            starts = [a.address(b.add(i, _least(b, r, rows)), k) for r in range(MR)]
            products = _walk(
                b, starts, a.steps[1], bb.address(l, j), bb.steps[0], depth, masks, ragged
            )
            _store(b, c, p, q, rows, products, masks, values[12])
            return context.get_dummy_value()

        return signature, codegen

    return tile


class _Matrix:
    """A Numba array of two dimensions, as an address and two steps in bytes."""

    def __init__(self, context, b, kind, value):
        array = context.make_array(kind)(context, b, value)
        self.b, self.base = b, b.bitcast(array.data, BYTE.as_pointer())
        self.steps = cgutils.unpack_tuple(b, array.strides, 2)

    def address(self, row, column):
        b = self.b
        return b.gep(self.base, [b.add(b.mul(row, self.steps[0]), b.mul(column, self.steps[1]))])


def _least(b, r, rows):
    """min(r, rows - 1): the row that stands in for row r."""
    there = b.icmp_signed("<", INT(r), rows)
    return b.select(there, INT(r), b.sub(rows, INT(1)))


def _spread(b, scalar):
    """A vector of 16 times the same."""
    one = b.insert_element(
        ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined), scalar, ir.IntType(32)(0)
    )
    return b.shuffle_vector(
        one, one, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    )


def _masks(b, cols, nv):
    """For each vector of the block, which of its lanes are columns of C."""
    limit = _spread(b, cols)
    lanes = [
        ir.Constant(ir.VectorType(INT, LANES), [LANES * v + n for n in range(LANES)])
        for v in range(nv)
    ]
    return [b.icmp_signed("<", lane, limit) for lane in lanes]


def _declare(b, name, result, arguments):
    """One of LLVM's own functions on vectors; those on memory have the address space, 0, in their name too."""
    suffix = ".p0" if "masked" in name else ""
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(b.module, kind, f"{name}.v{LANES}f32{suffix}")


def _load(b, address, mask=None):
    pointer = b.bitcast(address, VECTOR.as_pointer())
    if mask is None:
        return b.load(pointer, align=4)
    load = _declare(b, "llvm.masked.load", VECTOR, [pointer.type, ir.IntType(32), MASK, VECTOR])
    return b.call(load, [pointer, ir.IntType(32)(4), mask, ZERO])


def _walk(b, a_rows, a_step, b_row, b_step, depth, masks, ragged):
    """The loop over k; -> the block of sums, a vector for each row and each 16 columns."""
    multiply_add = _declare(b, "llvm.fmuladd", VECTOR, [VECTOR] * 3)
    entry, loop, done = b.block, b.append_basic_block("walk"), b.append_basic_block("walked")
    b.cbranch(b.icmp_signed(">", depth, INT(0)), loop, done)

    b.position_at_end(loop)
    k = b.phi(INT)
    sums = [[b.phi(VECTOR) for _ in masks] for _ in a_rows]
    row = b.gep(b_row, [b.mul(k, b_step)])
    loads = [
        _load(b, b.gep(row, [INT(4 * LANES * v)]), m if ragged else None)
        for v, m in enumerate(masks)
    ]
    news = []
    for start, olds in zip(a_rows, sums):
        address = b.gep(start, [b.mul(k, a_step)])
        number = _spread(b, b.load(b.bitcast(address, FLOAT.as_pointer()), align=4))
        news.append([b.call(multiply_add, [number, v, old]) for v, old in zip(loads, olds)])
    following = b.add(k, INT(1))
    b.cbranch(b.icmp_signed("<", following, depth), loop, done)

    k.add_incoming(INT(0), entry)
    k.add_incoming(following, loop)
    results = []
    for olds, new in zip(sums, news):
        for old, n in zip(olds, new):
            old.add_incoming(ZERO, entry)
            old.add_incoming(n, loop)
    b.position_at_end(done)
    for new in news:
        results.append([b.phi(VECTOR) for _ in new])
        for result, n in zip(results[-1], new):
            result.add_incoming(ZERO, entry)
            result.add_incoming(n, loop)
    return results


def _store(b, c, p, q, rows, products, masks, add):
    """C (+)= the block; lanes that must not be added to are loaded as 0."""
    store = _declare(
        b, "llvm.masked.store", ir.VoidType(), [VECTOR, VECTOR.as_pointer(), ir.IntType(32), MASK]
    )
    adding = _spread(b, b.icmp_unsigned("!=", add, add.type(0)))
    for r, vectors in enumerate(products):
        with b.if_then(b.icmp_signed("<", INT(r), rows)):
            row = c.address(b.add(p, INT(r)), q)
            for v, (vector, mask) in enumerate(zip(vectors, masks)):
                place = b.gep(row, [INT(4 * LANES * v)])
                old = _load(b, place, b.and_(mask, adding))
                pointer = b.bitcast(place, VECTOR.as_pointer())
                b.call(store, [b.fadd(old, vector), pointer, ir.IntType(32)(4), mask])


tile48, tile32, tile16 = make_tile(3), make_tile(2), make_tile(1)
ragged16 = make_tile(1, ragged=True)
