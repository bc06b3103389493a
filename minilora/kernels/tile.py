"""The register tile, and two ways to bring numbers into its reach: all that is shaped by hardware.

A matrix product is fast when almost every instruction is a fused multiply-add on a full vector
register. So the tile keeps a block of the result, MR rows by 16·nv columns, in registers while it
walks along the depth k. At each k it

    loads     nv vectors of 16 neighbours from row k of B,
    spreads   MR numbers of column k of A over a vector each,
    multiplies and adds them: MR · nv fused operations, one for each register of the block,

which for 8 x 48 is 24 multiply-adds for 11 loads, and nothing is stored until the walk ends. A loop
over arrays cannot say this: LLVM does not keep an array in registers. So the tile is written in
LLVM's own language, as an `@intrinsic`: a function that writes instructions, through the builder `b`,
when the kernel that calls it is compiled. It speaks of vectors of 16 floats on every machine; LLVM
cuts them into what there is: one register of AVX-512, two of AVX2, four of NEON.

    C[p:p+rows, q:q+cols] (+)= A[i:i+rows, k:k+depth] B[l:l+depth, j:j+cols]

with rows <= MR, cols <= 16·nv. A has any strides, so a transpose, or a head of an attention, is read
where it is. B and C have neighbouring columns. Edges need no other code: a missing row of A repeats
the last one and is not stored; missing columns are masked when C is stored. B is loaded up to the
next multiple of 16 columns, which `copy16` and `turn16` provide, filled up with zeros; `ragged16`
loads no more than there is.

How large the block may be follows from the registers: 32 of 16 floats hold 8 x 48 and leave 8 for B
and A; 16 of 8 floats (AVX2), or 32 of 4 (NEON), hold 6 x 16; 16 of 4 hold 2 x 16. A larger block
would be spilled into memory at every step.

Where JIT is disabled, intrinsics do not work; the `plain_` functions say the same in NumPy.
"""

import platform

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

LANES = 16
FLOAT, INT, INT32, BYTE = ir.FloatType(), ir.IntType(64), ir.IntType(32), ir.IntType(8)
VECTOR = ir.VectorType(FLOAT, LANES)


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
DOTS = 4 if NR == 48 else 2  # rows of a block of dot products, 4 DOTS sums in as many vectors


def plain_tile(A, i, k, B, l, j, C, p, q, depth, rows, cols, add):
    """C[p…, q…] = A[i…, k…] B[l…, j…] (+ C where add), rows by cols, depth summed."""
    old = C[p : p + rows, q : q + cols]
    new = A[i : i + rows, k : k + depth] @ B[l : l + depth, j : j + cols]
    old[:] = old + new if add else new


def plain_copy16(A, i, j, cols, P, p, q):
    """P[p, q…] = A[i, j…], cols of them, the rest of LANES zero."""
    P[p, q : q + LANES] = 0
    P[p, q : q + cols] = A[i, j : j + cols]


def plain_turn16(A, i, k, rows, depth, P, p, q):
    """P[p…, q…] = A[i…, k…]ᵀ, rows of them turned into columns, the rest of LANES zero."""
    P[p : p + depth, q : q + LANES] = 0
    P[p : p + depth, q : q + rows] = A[i : i + rows, k : k + depth].T


def plain_dots(A, i, W, j, C, p, q, depth, rows, cols, add):
    """C[p…, q…] = A[i…, :] W[j…, :]ᵀ (+ C where add), rows by cols."""
    plain_tile(A, i, 0, W.T, 0, j, C, p, q, depth, rows, cols, add)


def make_tile(nv: int, ragged: bool = False):
    """The tile of MR rows and 16·nv columns; of its arguments add is a bool, the sizes are ints."""
    if config.DISABLE_JIT:
        return plain_tile

    @intrinsic
    def tile(typing, A, i, k, B, l, j, C, p, q, depth, rows, cols, add):
        def codegen(context, b, signature, values):
            a, i, k, bb, l, j, c, p, q, depth, rows, cols = _unpack(context, b, signature, values[:12])
            masks = _masks(b, cols, nv)
            starts = [a.at(b.add(i, _least(b, r, rows)), k) for r in range(MR)]
            block = _walk(b, starts, a.steps[1], bb.at(l, j), bb.steps[0], depth, masks, ragged)
            _store_block(b, c, p, q, rows, block, masks, values[12])
            return context.get_dummy_value()

        return types.void(A, i, k, B, l, j, C, p, q, depth, rows, cols, add), codegen

    return tile


def _make_copy16():
    """P[p, q:q+16] = A[i, j:j+cols], then zeros; the columns of A are neighbours."""
    if config.DISABLE_JIT:
        return plain_copy16

    @intrinsic
    def copy16(typing, A, i, j, cols, P, p, q):
        def codegen(context, b, signature, values):
            a, i, j, cols, to, p, q = _unpack(context, b, signature, values)
            (mask,) = _masks(b, cols, 1)
            _store(b, to.at(p, q), _load(b, a.at(i, j), mask))
            return context.get_dummy_value()

        return types.void(A, i, j, cols, P, p, q), codegen

    return copy16


def _make_turn16():
    """P[p:p+depth, q:q+16] = A[i:i+rows, k:k+depth]ᵀ, then zeros; rows, depth <= 16.

    The columns of A are neighbours. Four rounds of exchanges between rows, at distance 1, 2, 4, 8:
    in each, two rows swap every other group of so many numbers.
    """
    if config.DISABLE_JIT:
        return plain_turn16

    @intrinsic
    def turn16(typing, A, i, k, rows, depth, P, p, q):
        def codegen(context, b, signature, values):
            a, i, k, rows, depth, to, p, q = _unpack(context, b, signature, values)
            (within,) = _masks(b, depth, 1)
            vectors = []
            for n in range(LANES):
                there = _spread(b, b.icmp_signed("<", INT(n), rows))
                address = a.at(b.add(i, _least(b, n, rows)), k)
                vectors.append(_load(b, address, b.and_(within, there)))
            for d, vector in enumerate(_turned(b, vectors)):
                with b.if_then(b.icmp_signed("<", INT(d), depth)):
                    _store(b, to.at(b.add(p, INT(d)), q), vector)
            return context.get_dummy_value()

        return types.void(A, i, k, rows, depth, P, p, q), codegen

    return turn16


def _make_dots():
    """C[p:p+rows, q:q+cols] (+)= A[i:i+rows, :depth] W[j:j+cols, :depth]ᵀ; cols <= 4, rows <= DOTS.

    A second tile, for a C so narrow that its columns do not fill a vector: here the vectors lie along
    the depth, one for each number of C, and are summed at the end. A, W, C have neighbouring columns.
    """
    if config.DISABLE_JIT:
        return plain_dots

    @intrinsic
    def dots(typing, A, i, W, j, C, p, q, depth, rows, cols, add):
        def codegen(context, b, signature, values):
            a, i, w, j, c, p, q, depth, rows, cols = _unpack(context, b, signature, values[:10])
            starts = [a.at(b.add(i, _least(b, r, rows)), INT(0)) for r in range(DOTS)]
            starts += [w.at(b.add(j, _least(b, n, cols)), INT(0)) for n in range(4)]
            sums = _sums(b, _walk_along(b, starts[:DOTS], starts[DOTS:], depth))
            quarters = [_indices(range(4 * r, 4 * r + 4)) for r in range(DOTS)]
            block = [[b.shuffle_vector(sums, sums, quarter)] for quarter in quarters]
            _store_block(b, c, p, q, rows, block, _masks(b, cols, 1, 4), values[10])
            return context.get_dummy_value()

        return types.void(A, i, W, j, C, p, q, depth, rows, cols, add), codegen

    return dots


class _Matrix:
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


def _unpack(context, b, signature, values):
    """Arrays as _Matrix, whole numbers as INT."""
    return [
        _Matrix(context, b, kind, value)
        if isinstance(kind, types.Array)
        else context.cast(b, value, kind, types.int64)
        for kind, value in zip(signature.args, values)
    ]


def _least(b, r, rows):
    """min(r, rows - 1): the row that stands in for row r."""
    return b.select(b.icmp_signed("<", INT(r), rows), INT(r), b.sub(rows, INT(1)))


def _zero(lanes=LANES):
    return ir.Constant(ir.VectorType(FLOAT, lanes), [0.0] * lanes)


def _indices(numbers):
    return ir.Constant(ir.VectorType(INT32, len(numbers)), list(numbers))


def _spread(b, scalar, lanes=LANES):
    """A vector of the same number, many times."""
    nothing = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    one = b.insert_element(nothing, scalar, INT32(0))
    return b.shuffle_vector(one, one, _indices([0] * lanes))


def _masks(b, cols, nv, lanes=LANES):
    """For each of nv vectors, which of its lanes are among the first cols."""
    limit, kind = _spread(b, cols, lanes), ir.VectorType(INT, lanes)
    columns = [ir.Constant(kind, [lanes * v + n for n in range(lanes)]) for v in range(nv)]
    return [b.icmp_signed("<", c, limit) for c in columns]


def _declare(b, name, result, arguments, lanes):
    """One of LLVM's own functions on vectors; those on memory name its address space, 0, too."""
    suffix = ".p0" if "masked" in name else ""
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(b.module, kind, f"{name}.v{lanes}f32{suffix}")


def _multiply_add(b, x, y, z):
    """x y + z, in one operation where the processor has it."""
    function = _declare(b, "llvm.fmuladd", x.type, [x.type] * 3, x.type.count)
    return b.call(function, [x, y, z])


def _load(b, address, mask=None):
    """A vector, 0 where it is masked; of 16 floats without a mask."""
    if mask is None:
        return b.load(b.bitcast(address, VECTOR.as_pointer()), align=4)
    zero = _zero(mask.type.count)
    pointer = b.bitcast(address, zero.type.as_pointer())
    kinds = [pointer.type, INT32, mask.type, zero.type]
    load = _declare(b, "llvm.masked.load", zero.type, kinds, mask.type.count)
    return b.call(load, [pointer, INT32(4), mask, zero])


def _store(b, address, vector, mask=None):
    pointer = b.bitcast(address, vector.type.as_pointer())
    if mask is None:
        return b.store(vector, pointer, align=4)
    kinds = [vector.type, pointer.type, INT32, mask.type]
    store = _declare(b, "llvm.masked.store", ir.VoidType(), kinds, mask.type.count)
    return b.call(store, [vector, pointer, INT32(4), mask])


def _walk(b, a_rows, a_step, b_row, b_step, depth, masks, ragged):
    """The loop over k; -> the block of sums, a vector for each row and each 16 columns."""
    entry, loop, done = b.block, b.append_basic_block("walk"), b.append_basic_block("walked")
    b.cbranch(b.icmp_signed(">", depth, INT(0)), loop, done)

    b.position_at_end(loop)
    k = b.phi(INT)
    sums = [[b.phi(VECTOR) for _ in masks] for _ in a_rows]
    row = b.gep(b_row, [b.mul(k, b_step)])
    places = [b.gep(row, [INT(4 * LANES * v)]) for v in range(len(masks))]
    loads = [_load(b, place, m if ragged else None) for place, m in zip(places, masks)]
    news = []
    for start, olds in zip(a_rows, sums):
        place = b.gep(start, [b.mul(k, a_step)])
        number = _spread(b, b.load(b.bitcast(place, FLOAT.as_pointer()), align=4))
        news.append([_multiply_add(b, number, v, old) for v, old in zip(loads, olds)])
    following = b.add(k, INT(1))
    b.cbranch(b.icmp_signed("<", following, depth), loop, done)
    _join(k, (INT(0), entry), (following, loop))
    for olds, new in zip(sums, news):
        for old, n in zip(olds, new):
            _join(old, (_zero(), entry), (n, loop))

    b.position_at_end(done)
    return [[_join(b.phi(VECTOR), (_zero(), entry), (n, loop)) for n in new] for new in news]


def _walk_along(b, a_rows, w_rows, depth):
    """For each row of A and of W the vector of their products, summed over steps of its lanes."""
    lanes = 4 * DOTS
    entry, loop, done = b.block, b.append_basic_block("along"), b.append_basic_block("arrived")
    b.branch(loop)

    b.position_at_end(loop)
    k = b.phi(INT)
    sums = [b.phi(_zero(lanes).type) for _ in a_rows for _ in w_rows]
    (mask,) = _masks(b, b.sub(depth, k), 1, lanes)
    a, w = ([_load(b, b.gep(row, [b.mul(k, INT(4))]), mask) for row in rows] for rows in (a_rows, w_rows))
    pairs = [(x, y) for x in a for y in w]
    news = [_multiply_add(b, x, y, old) for (x, y), old in zip(pairs, sums)]
    following = b.add(k, INT(lanes))
    b.cbranch(b.icmp_signed("<", following, depth), loop, done)
    _join(k, (INT(0), entry), (following, loop))
    for old, n in zip(sums, news):
        _join(old, (_zero(lanes), entry), (n, loop))

    b.position_at_end(done)
    return news


def _join(phi, *sources):
    """A value that depends on where the control came from."""
    for value, block in sources:
        phi.add_incoming(value, block)
    return phi


def _store_block(b, c, p, q, rows, block, masks, add):
    """C (+)= the block."""
    with b.if_else(b.icmp_unsigned("!=", add, add.type(0))) as (adding, replacing):
        for way in (adding, replacing):
            with way:
                for r, vectors in enumerate(block):
                    with b.if_then(b.icmp_signed("<", INT(r), rows)):
                        row = c.at(b.add(p, INT(r)), q)
                        _store_row(b, row, vectors, masks, way is adding)


def _store_row(b, row, vectors, masks, add):
    for v, (vector, mask) in enumerate(zip(vectors, masks)):
        place = b.gep(row, [INT(4 * mask.type.count * v)])
        if add:
            vector = b.fadd(_load(b, place, mask), vector)
        _store(b, place, vector, mask)


def _turned(b, rows):
    """The transpose of 16 vectors of 16."""
    rows = list(rows)
    for s in (1, 2, 4, 8):
        for n in range(LANES):
            if not n & s:
                rows[n], rows[n + s] = _exchange(b, rows[n], rows[n + s], s)
    return rows


def _sums(b, rows):
    """The vector of the sums of as many vectors as they have lanes: exchanged as above, and added."""
    s = 1
    while len(rows) > 1:
        pairs = zip(rows[::2], rows[1::2])
        rows = [b.fadd(*_exchange(b, upper, lower, s)) for upper, lower in pairs]
        s *= 2
    return rows[0]


def _exchange(b, upper, lower, s):
    """Two rows after a round at distance s."""
    lanes = upper.type.count
    first = [lanes + n - s if n & s else n for n in range(lanes)]
    second = [lanes + n if n & s else n + s for n in range(lanes)]
    return (
        b.shuffle_vector(upper, lower, _indices(first)),
        b.shuffle_vector(upper, lower, _indices(second)),
    )


tile48, tile32, tile16 = make_tile(3), make_tile(2), make_tile(1)
ragged16 = make_tile(1, ragged=True)
dots, copy16, turn16 = _make_dots(), _make_copy16(), _make_turn16()
