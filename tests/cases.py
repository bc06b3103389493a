"""Every page with arguments: ops, techniques, and what is neither."""

import inspect
from pathlib import Path

import minilora as ml
from minilora.check import examples
from minilora.fast.twins import TWINS
from minilora.methods import dora
from minilora.methods.delta_lora import add_product
from minilora.ops.adamw import adamw
from minilora.ops.dropout import mask

TOOLS = ("recompute",)  # of the tape: they run other ops, and have no mathematics of their own

OPS = examples.OPS | {record.op.name: record.op for record in ml.METHODS.values()}
PAIRS = {name: (op.forward, op.backward) for name, op in OPS.items()}
PAIRS["row_norm"] = (dora.row_norm_forward, dora.row_norm_backward)
ALONE = {"adamw": adamw, "mask": mask, "add_product": add_product}  # pages that are no pairs

RECORDS = {record.op.name: record for record in reversed(ml.METHODS.values())}


def frozen(name):
    """The arguments of a pair that get no gradient."""
    if name == "row_norm":
        return ("W",)
    own = name in examples.OPS
    return examples.FROZEN.get(name, ()) if own else examples.frozen_of(RECORDS[name])


def arguments(name, seed=0, M=5, I=4, O=6, r=3):
    """Arguments of a pair's forward."""
    if name == "row_norm":
        _, W, s, A, B, *_ = arguments("dora", seed, M, I, O, r)
        return W, s, A, B
    if name in examples.OPS:
        return examples.of_op(name, seed, M, I, O, r)
    return examples.of_method(RECORDS[name], seed, M, I, O, r)


def page_files():
    """The files of the pages."""
    package = Path(ml.__file__).parent
    return [p for room in ("ops", "methods") for p in sorted((package / room).glob("[!_]*.py"))]


def running(name):
    """The forward and backward that run when an op is called: its twins, where they fit."""
    op = OPS.get(name)
    if op is None:
        return PAIRS[name]
    pair = op.fast or op.look_up()
    return pair.forward, pair.backward


def twins(name):
    """An op's twins, which refuse what does not fit them; the page's own where there is none."""
    return [inspect.unwrap(TWINS.get(f, f)) for f in PAIRS[name]]


def parameters(forward):
    """Names of a function's parameters, in order."""
    return list(inspect.signature(forward).parameters)
