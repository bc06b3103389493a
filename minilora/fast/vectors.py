"""Vectors of 16 floats: words for LLVM instructions, and what the kernels need beyond Numba.

Numba compiles loops over numbers, and LLVM makes vector code of many of them. Where it does not,
the few functions here and in tile.py say which vectors they mean. Each is an `@intrinsic`: a
function that, when a kernel which calls it is compiled, writes its instructions through the
builder `b`. It speaks of 16 floats on every machine; LLVM cuts them into what there is: one
register of AVX-512, two of AVX2, four of NEON. Where JIT is disabled, intrinsics do not work:
beside each stands `plain_…`, the same in NumPy.
"""

import math

import numpy as np
from llvmlite import ir
from numba import float32, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from .threads import settings

LANES = 16
FEATURES = frozenset(cpu_target.target_context.codegen().magic_tuple()[2].split(","))  # "+avx2", …
FLOAT, INT, INT32, BYTE = ir.FloatType(), ir.IntType(64), ir.IntType(32), ir.IntType(8)


def choose(plain):
    """A decorator: an intrinsic, or its plain twin where JIT is disabled."""
    return lambda written: plain if settings["DISABLE_JIT"] else intrinsic(written)


# words


class Matrix:
    """A Numba array of two dimensions, as an address and two steps in bytes."""

    def __init__(self, context, b, kind, value):
        array = context.make_array(kind)(context, b, value)
        self.b, self.base = b, b.bitcast(array.data, BYTE.as_pointer())
        self.steps = cgutils.unpack_tuple(b, array.strides, 2)

    def at(self, row, column):
        """The address of an element."""
        b = self.b
        offset = b.add(b.mul(row, self.steps[0]), b.mul(column, self.steps[1]))
        return b.gep(self.base, [offset])


def unpack(context, b, signature, values):
    """The arguments: arrays as Matrix, whole numbers as INT, others as they are."""
    return [
        Matrix(context, b, kind, value)
        if isinstance(kind, types.Array)
        else context.cast(b, value, kind, types.int64)
        if isinstance(kind, types.Integer)
        else value
        for kind, value in zip(signature.args, values)
    ]


def vector(lanes=LANES):
    """The type of a vector of floats."""
    return ir.VectorType(FLOAT, lanes)


def constant(number, kind):
    """The number, or a vector of it."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [number] * kind.count)
    return ir.Constant(kind, number)


def numbers(some, kind=INT32):
    """A vector of different whole numbers."""
    return ir.Constant(ir.VectorType(kind, len(some)), list(some))


def spread(b, scalar, lanes=LANES):
    """A vector of the same scalar."""
    nothing = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    one = b.insert_element(nothing, scalar, INT32(0))
    return b.shuffle_vector(one, one, numbers([0] * lanes))


def masks(b, cols, nv, lanes=LANES):
    """For each of nv vectors, which of its lanes are among the first cols."""
    limit = spread(b, cols, lanes)
    columns = [numbers(range(lanes * v, lanes * (v + 1)), INT) for v in range(nv)]
    return [b.icmp_signed("<", c, limit) for c in columns]


def load(b, address, mask=None, lanes=LANES):
    """A vector of so many floats; with a mask: of as many as it has, 0 where it is masked."""
    if mask is None:
        return b.load(b.bitcast(address, vector(lanes).as_pointer()), align=4)
    kind = vector(mask.type.count)
    pointer = b.bitcast(address, kind.as_pointer())
    return _call(b, "llvm.masked.load", kind, [pointer, INT32(4), mask, constant(0.0, kind)])


def store(b, address, value, mask=None):
    """Write a vector, but not where it is masked."""
    pointer = b.bitcast(address, value.type.as_pointer())
    if mask is None:
        b.store(value, pointer, align=4)
    else:
        _call(b, "llvm.masked.store", ir.VoidType(), [value, pointer, INT32(4), mask], value.type)


def ask_for(b, address, to_write=False, near=False):
    """Have the cache line of an address brought into L2; into L1 to write to it."""
    kinds = [BYTE.as_pointer(), INT32, INT32, INT32]
    signature = ir.FunctionType(ir.VoidType(), kinds)
    prefetch = cgutils.get_or_insert_function(b.module, signature, "llvm.prefetch.p0")
    b.call(prefetch, [address, INT32(int(to_write)), INT32(3 if to_write or near else 2), INT32(1)])


def multiply_add(b, x, y, z):
    """x y + z, in one operation where the processor has it."""
    return _call(b, "llvm.fmuladd", x.type, [x, y, z])


def _call(b, name, result, arguments, kind=None):
    """One of LLVM's own functions; its full name tells its vectors, and its address space, 0."""
    kind = kind or result
    lanes = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
    name += f".{lanes}f32" + (".p0" if "masked" in name else "")
    signature = ir.FunctionType(result, [a.type for a in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, signature, name), arguments)


def repeat(b, stop, carried, body, step=1, start=None):
    """for k in range(start, stop, step): carried = body(k, carried). -> carried."""
    entry = b.block
    test, loop, done = (b.append_basic_block(name) for name in ("test", "loop", "done"))
    b.branch(test)
    b.position_at_end(test)
    k, now = b.phi(INT), [b.phi(c.type) for c in carried]
    b.cbranch(b.icmp_signed("<", k, stop), loop, done)
    b.position_at_end(loop)
    after = [b.add(k, INT(step)), *body(k, now)]
    for phi, first, later in zip([k, *now], [start or INT(0), *carried], after):
        phi.add_incoming(first, entry)
        phi.add_incoming(later, b.block)
    b.branch(test)
    b.position_at_end(done)
    return now


# functions of one float, or of each of a vector


def _exp(b, x):
    """eˣ = 2ⁿ eʳ, n whole, |r| <= ln 2 / 2; 0 below -87, inf above 88, NaN for NaN.

    ln 2 is taken off in two parts: n times the first, of ten bits, is exact. eʳ is its series up to
    r⁶/720. 2ⁿ is made of bits: a float that is 1.5 · 2²³ + n has n in its last bits, and they are
    shifted to where a float has its exponent.
    """
    kind = x.type
    whole = INT32 if kind == FLOAT else ir.VectorType(INT32, kind.count)
    high, low = 0.693359375, math.log(2) - 0.693359375
    n = _call(b, "llvm.rint", kind, [b.fmul(x, constant(1 / math.log(2), kind))])
    r = multiply_add(b, n, constant(-low, kind), multiply_add(b, n, constant(-high, kind), x))
    e = constant(1 / 720, kind)
    for power in (5, 4, 3, 2, 1, 0):
        e = multiply_add(b, e, r, constant(1 / math.factorial(power), kind))
    bits = b.bitcast(b.fadd(n, constant(1.5 * 2**23, kind)), whole)
    exponent = b.add(b.shl(bits, constant(23, whole)), constant(127 << 23, whole))
    e = b.fmul(e, b.bitcast(exponent, kind))
    e = b.select(b.fcmp_ordered("<", x, constant(-87.0, kind)), constant(0.0, kind), e)
    return b.select(b.fcmp_ordered(">", x, constant(88.0, kind)), constant(math.inf, kind), e)


@choose(np.exp)
def exp(typing, x):
    """eˣ of a float32. math.exp is a call, which LLVM cannot turn into vector code; this it can."""
    return float32(float32), lambda context, b, signature, values: _exp(b, *values)


def plain_fused(x, y, z):
    """x y + z."""
    return x * y + z


@choose(plain_fused)
def fused(typing, x, y, z):
    """x y + z of three float32, in one operation where the processor has it."""

    def codegen(context, b, signature, values):
        return multiply_add(b, *values)

    return float32(float32, float32, float32), codegen


@choose(np.maximum)
def maximum(typing, x, y):
    """The larger of two float32, or NaN: max() would lose the NaN, and not become vector code."""

    def codegen(context, b, signature, values):
        return _call(b, "llvm.maximum", FLOAT, list(values))

    return float32(float32, float32), codegen


def plain_turn_pairs(x, cos, sin, y):
    """The pairs (x[j], x[j + n]) turned, into y.   x, y (2n,), cos, sin (n,)."""
    n = len(cos)
    y[:n] = x[:n] * cos - x[n:] * sin
    y[n:] = x[n:] * cos + x[:n] * sin


@choose(plain_turn_pairs)
def turn_pairs(typing, x, cos, sin, y):
    """y[j], y[j + n] = x[j] cos[j] - x[j + n] sin[j], x[j + n] cos[j] + x[j] sin[j].

    x, y (2n,), cos, sin (n,). A loop of so few numbers LLVM would do mostly one by one.
    """

    def codegen(context, b, signature, values):
        rows = [context.make_array(k)(context, b, v) for k, v in zip(signature.args, values)]
        x, cos, sin, y = (row.data for row in rows)
        (n,) = cgutils.unpack_tuple(b, rows[1].shape, 1)

        def turn(j, _):
            (mask,) = masks(b, b.sub(n, j), 1)
            low, high = j, b.add(j, n)
            u, v = (load(b, b.gep(x, [k]), mask) for k in (low, high))
            c, s = (load(b, b.gep(row, [j]), mask) for row in (cos, sin))
            store(b, b.gep(y, [low]), multiply_add(b, u, c, b.fneg(b.fmul(v, s))), mask)
            store(b, b.gep(y, [high]), multiply_add(b, u, s, b.fmul(v, c)), mask)
            return []

        repeat(b, n, [], turn, LANES)
        return context.get_dummy_value()

    return types.void(x, cos, sin, y), codegen


# softmax down 16 columns of a block of scores


def plain_soften(s, c, keys, scale, sums):
    """s = exp(scale (s - max)) of 16 columns; max and total into sums."""
    block = s[:keys, c : c + LANES]
    sums[0, c : c + LANES] = block.max(axis=0)
    block[:] = np.exp((block - sums[0, c : c + LANES]) * scale)
    sums[1, c : c + LANES] = block.sum(axis=0)


@choose(plain_soften)
def soften(typing, s, c, keys, scale, sums):
    """s = exp(scale (s - max)) in columns c to c + 16; sums[0] = max, sums[1] = the total."""

    def codegen(context, b, signature, values):
        s, c, keys, scale, sums = unpack(context, b, signature, values)
        scale = spread(b, scale)

        def larger(k, tops):  # a NaN is passed over here, and met again in the total
            x = load(b, s.at(k, c))
            return [b.select(b.fcmp_ordered(">", x, tops[0]), x, tops[0])]

        def powers(k, totals):
            place = s.at(k, c)
            e = _exp(b, b.fmul(b.fsub(load(b, place), top), scale))
            store(b, place, e)
            return [b.fadd(totals[0], e)]

        (top,) = repeat(b, keys, [constant(-math.inf, vector())], larger)
        (total,) = repeat(b, keys, [constant(0.0, vector())], powers)
        store(b, sums.at(INT(0), c), top)
        store(b, sums.at(INT(1), c), total)
        return context.get_dummy_value()

    return types.void(s, c, keys, float32, sums), codegen


def plain_soften_back(p, ds, c, keys, scale, sums):
    """p = exp(scale s - lse), ds = scale p (dp - mean), of 16 columns."""
    block, products = p[:keys, c : c + LANES], ds[:keys, c : c + LANES]
    block[:] = np.exp(block * scale - sums[0, c : c + LANES])
    products[:] = block * ((products - sums[1, c : c + LANES]) * scale)


@choose(plain_soften_back)
def soften_back(typing, p, ds, c, keys, scale, sums):
    """p = exp(scale s - lse), s in p; ds = scale p (dp - mean), dp in ds; sums = lse, mean."""

    def codegen(context, b, signature, values):
        p, ds, c, keys, scale, sums = unpack(context, b, signature, values)
        lse, mean = (load(b, sums.at(INT(n), c)) for n in (0, 1))
        scale = spread(b, scale)

        def row(k, _):
            e = _exp(b, b.fsub(b.fmul(load(b, p.at(k, c)), scale), lse))
            store(b, p.at(k, c), e)
            d = b.fsub(load(b, ds.at(k, c)), mean)
            store(b, ds.at(k, c), b.fmul(e, b.fmul(d, scale)))
            return []

        repeat(b, keys, [], row)
        return context.get_dummy_value()

    return types.void(p, ds, c, keys, float32, sums), codegen
