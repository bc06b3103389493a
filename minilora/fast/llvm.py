"""Helpers that write LLVM instructions for vectors of 16 floats.

Numba compiles loops over single numbers, and LLVM turns many of them into vector code. Where LLVM
does not, the functions of vectors.py, tile.py and sums.py state the vectors themselves.
Each of them is an intrinsic: when Numba compiles a kernel that calls it, the intrinsic writes its
instructions through the builder `b`.

The code uses vectors of 16 floats on every processor. LLVM splits a vector into the registers that
exist: one of AVX-512, two of AVX2, four of NEON. Intrinsics do not work where the JIT is disabled
(NUMBA_DISABLE_JIT=1). So each has a twin in NumPy, `plain_…`, which is used then.
"""

import functools
import inspect

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from .threads import settings

LANES = 16  # numbers of a vector
FEATURES = frozenset(cpu_target.target_context.codegen().magic_tuple()[2].split(","))  # "+avx2", …
FLOAT, INT, INT32, BYTE = ir.FloatType(), ir.IntType(64), ir.IntType(32), ir.IntType(8)


def intrinsic_or(plain):
    """Decorator: Numba's intrinsic, or the function `plain` where the JIT is disabled."""
    return lambda written: plain if settings["DISABLE_JIT"] else intrinsic(written)


def procedure(plain):
    """Decorator: write(b, *arguments) as an intrinsic that returns nothing.

    write gets arrays as Array, integers as INT, and other values as they are.
    """

    def decorate(write):
        def codegen(context, b, signature, values):
            write(b, *_unpack(context, b, signature, values))
            return context.get_dummy_value()

        @functools.wraps(write)  # Numba reads the names of the arguments here; b becomes `typing`
        def typed(typing, *kinds):
            return types.void(*kinds), codegen

        return intrinsic_or(plain)(typed)

    return decorate


def by_address(function):
    """An intrinsic that calls a compiled function by its address.

    Where a kernel simply calls another one, Numba copies the other's code into it, and compiles the
    copy. The address gets a name that is the same in every process, because Numba keeps the caller
    on the disk. The function has one signature, returns nothing and raises nothing.
    """
    if settings["DISABLE_JIT"]:
        return function
    wanted, code = function.signatures[0], function.overloads[function.signatures[0]]
    name = f"{function.__module__}.{function.__name__}"
    address = code.library.get_pointer_to_function(code.fndesc.llvm_func_name)
    binding.add_symbol(name, address)

    def codegen(context, b, signature, values):
        arguments = [
            value if isinstance(kind, types.Array) else context.cast(b, value, kind, to)
            for value, kind, to in zip(values, signature.args, wanted)
        ]
        convention = context.call_conv
        kind = convention.get_function_type(types.none, wanted)
        place = cgutils.get_or_insert_function(b.module, kind, name)
        convention.call_function(b, place, types.none, wanted, arguments)
        return context.get_dummy_value()

    def typed(typing, *given):
        return types.void(*given), codegen

    own = inspect.signature(function.py_func)  # Numba reads the names of the arguments here
    first = inspect.Parameter("typing", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    vars(typed)["__signature__"] = own.replace(parameters=[first, *own.parameters.values()])
    return intrinsic(typed)


class Array:
    """A Numba array: its sizes, its address, and its strides in bytes."""

    def __init__(self, context, b, kind, value):
        array = context.make_array(kind)(context, b, value)
        self.b, self.base = b, b.bitcast(array.data, BYTE.as_pointer())
        self.sizes = cgutils.unpack_tuple(b, array.shape, kind.ndim)
        self.strides = cgutils.unpack_tuple(b, array.strides, kind.ndim)
        if kind.layout == "C":
            self.strides[-1] = INT(kind.dtype.bitwidth // 8)

    def at(self, *place):
        """The address of an element."""
        offsets = [self.b.mul(n, stride) for n, stride in zip(place, self.strides)]
        return self.b.gep(self.base, [functools.reduce(self.b.add, offsets)])


def _unpack(context, b, signature, values):
    return [
        Array(context, b, kind, value)
        if isinstance(kind, types.Array)
        else context.cast(b, value, kind, types.int64)
        if isinstance(kind, types.Integer)
        else value
        for kind, value in zip(signature.args, values)
    ]


# Vectors


def vector(lanes=LANES):
    """The type of a vector of floats."""
    return ir.VectorType(FLOAT, lanes)


def constant(value, kind):
    """A constant of this type; of a vector type: the value in each lane."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [value] * kind.count)
    return ir.Constant(kind, value)


def int_vector(values, kind=INT32):
    """A constant vector of these integers."""
    return ir.Constant(ir.VectorType(kind, len(values)), list(values))


def broadcast(b, scalar, lanes=LANES):
    """A vector with the scalar in each lane."""
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = b.insert_element(undefined, scalar, INT32(0))
    return b.shuffle_vector(first, first, int_vector([0] * lanes))


def masks(b, cols, nv, lanes=LANES):
    """For each of nv vectors in a row: which of its lanes are among the first cols numbers."""
    limit = broadcast(b, cols, lanes)
    columns = [int_vector(range(lanes * v, lanes * (v + 1)), INT) for v in range(nv)]
    return [b.icmp_signed("<", c, limit) for c in columns]


def load(b, address, mask=None, lanes=LANES):
    """A vector of this many floats; with a mask, of the mask's length, and 0 where masked out."""
    if mask is None:
        return b.load(b.bitcast(address, vector(lanes).as_pointer()), align=4)
    kind = vector(mask.type.count)
    pointer = b.bitcast(address, kind.as_pointer())
    return call_llvm(b, "llvm.masked.load", kind, [pointer, INT32(4), mask, constant(0.0, kind)])


def store(b, address, value, mask=None):
    """Write a vector, except where it is masked out."""
    pointer = b.bitcast(address, value.type.as_pointer())
    if mask is None:
        b.store(value, pointer, align=4)
    else:
        arguments = [value, pointer, INT32(4), mask]
        call_llvm(b, "llvm.masked.store", ir.VoidType(), arguments, value.type)


def prefetch(b, address, to_write=False, near=False):
    """Fetch the cache line of an address into L2, or into L1 if it is `near` or written to."""
    kinds = [BYTE.as_pointer(), INT32, INT32, INT32]
    function = ir.FunctionType(ir.VoidType(), kinds)
    function = cgutils.get_or_insert_function(b.module, function, "llvm.prefetch.p0")
    b.call(function, [address, INT32(int(to_write)), INT32(3 if to_write or near else 2), INT32(1)])


def multiply_add(b, x, y, z):
    """x y + z, in one operation where the processor has it."""
    return call_llvm(b, "llvm.fmuladd", x.type, [x, y, z])


def call_llvm(b, name, result, arguments, kind=None):
    """Call a function of LLVM; its full name states the vector type, and the address space 0."""
    kind = kind or result
    lanes = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
    name += f".{lanes}f32" + (".p0" if "masked" in name else "")
    function = ir.FunctionType(result, [a.type for a in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, function, name), arguments)


def loop(b, stop, carried, body, step=1, start=None):
    """for k in range(start, stop, step): carried = body(k, carried). Returns carried."""
    entry = b.block
    test, inside, done = (b.append_basic_block(name) for name in ("test", "loop", "done"))
    b.branch(test)
    b.position_at_end(test)
    k, now = b.phi(INT), [b.phi(c.type) for c in carried]
    b.cbranch(b.icmp_signed("<", k, stop), inside, done)
    b.position_at_end(inside)
    after = [b.add(k, INT(step)), *body(k, now)]
    for phi, first, later in zip([k, *now], [start or INT(0), *carried], after):
        phi.add_incoming(first, entry)
        phi.add_incoming(later, b.block)
    b.branch(test)
    b.position_at_end(done)
    return now


def transposed(b, rows):
    """The transpose of 16 vectors of 16: four rounds of exchanges, at distances 1, 2, 4 and 8."""
    rows = list(rows)
    for s in (1, 2, 4, 8):
        for n in range(LANES):
            if not n & s:
                rows[n], rows[n + s] = _exchange(b, rows[n], rows[n + s], s)
    return rows


def sums_of(b, rows):
    """The sums of n vectors of n lanes, as one vector: lanes are exchanged, and vectors added."""
    s = 1
    while len(rows) > 1:
        pairs = zip(rows[::2], rows[1::2])
        rows = [b.fadd(*_exchange(b, upper, lower, s)) for upper, lower in pairs]
        s *= 2
    return rows[0]


def _exchange(b, upper, lower, s):
    """Two rows after they exchanged every second group of s numbers."""
    lanes = upper.type.count
    first = [lanes + n - s if n & s else n for n in range(lanes)]
    second = [lanes + n if n & s else n + s for n in range(lanes)]
    return (
        b.shuffle_vector(upper, lower, int_vector(first)),
        b.shuffle_vector(upper, lower, int_vector(second)),
    )
