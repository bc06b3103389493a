"""The pages run alone: a function's source, with NumPy, math and its own file, and nothing else."""

import ast
import inspect
import math

import numpy as np
import pytest
from cases import ALONE, PAIRS, TOOLS, arguments, frozen, page_files

from minilora import gradcheck
from minilora.ops.dropout import mask

pytestmark = pytest.mark.smoke
each_pair = pytest.mark.parametrize("name", PAIRS)


def alone(*functions):
    """The functions from their source: with np, math, constants and functions of the same file."""
    functions = [inspect.unwrap(f) for f in functions]
    tree = ast.parse(inspect.getsource(inspect.getmodule(functions[0])))
    parts = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            parts.setdefault(node.name, node)
        elif isinstance(node, ast.Assign) and is_constant(node.value):
            parts.update((t.id, node) for t in node.targets if isinstance(t, ast.Name))
    wanted, waiting = {}, [f.__name__ for f in functions]
    while waiting:
        name = waiting.pop()
        if name in parts and name not in wanted:
            wanted[name] = parts[name]
            waiting += [n.id for n in ast.walk(parts[name]) if isinstance(n, ast.Name)]
    namespace = {"np": np, "math": math}
    code = ast.Module([node for node in parts.values() if node in wanted.values()], [])
    exec(compile(code, functions[0].__name__, "exec"), namespace)
    return [namespace[f.__name__] for f in functions]


def is_constant(node):
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


@each_pair
@pytest.mark.parametrize("seed", range(4))
def test_a_pair_runs_alone_and_passes_finite_differences(name, seed):
    """Seeds 1 and 3 have the last argument too: what dropout made of x, a divisor."""
    forward, backward = alone(*PAIRS[name])
    sizes = [(5, 4, 6, 3), (1, 3, 2, 1), (7, 2, 5, 4), (4, 1, 1, 2)][seed]
    given = arguments(name, seed, *sizes)
    gradcheck(forward, backward, *given, frozen=frozen(name), seed=seed)


def test_every_function_of_the_pages_is_tested_here():
    tested = {f.__name__ for pair in PAIRS.values() for f in pair} | set(ALONE)
    ends = ("_forward", "_backward")
    for path in page_files():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.endswith(ends):
                assert node.name in tested, f"{path.name}: {node.name}"
    assert "recompute" in TOOLS and not any(name in PAIRS for name in TOOLS)


@pytest.mark.parametrize("path", page_files(), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_no_kernel_is_named_on_a_page(path):
    """A page imports nothing of the engine room."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            assert not any("fast" in name.split(".") for name in names)


def test_adamw_alone_is_the_formula():
    """Against the same step written entry by entry, as torch's documentation states it."""
    (adamw,) = alone(ALONE["adamw"])
    rng = np.random.default_rng(0)
    p, g, m = (rng.standard_normal((3, 2)) for _ in range(3))
    v = rng.random((3, 2))
    lr, beta1, beta2, eps, decay, step, factor = 0.1, 0.9, 0.99, 1e-3, 0.2, 4, 0.5
    wanted = np.empty_like(p)
    for i in np.ndindex(p.shape):
        first = beta1 * m[i] + (1 - beta1) * factor * g[i]
        second = beta2 * v[i] + (1 - beta2) * (factor * g[i]) ** 2
        size = math.sqrt(second / (1 - beta2**step)) + eps
        wanted[i] = p[i] * (1 - lr * decay) - lr * (first / (1 - beta1**step)) / size
    adamw(p, g, m, v, lr, beta1, beta2, eps, decay, step, factor)
    np.testing.assert_allclose(p, wanted, rtol=1e-13)


def test_the_mask_alone_is_that_of_its_key():
    (by_itself,) = alone(ALONE["mask"])
    x = np.ones((400, 50))
    m = by_itself(x, 0.2, (1, 2, 3))
    assert set(np.unique(m)) == {0, 1.25} and abs(m.mean() - 1) < 0.01
    assert np.array_equal(m, mask(x.astype(np.float32), 0.2, (1, 2, 3)))
    assert not np.array_equal(m, by_itself(x, 0.2, (1, 2, 4)))


def test_a_product_alone_adds_in_place():
    (add_product,) = alone(ALONE["add_product"])
    W = np.ones((2, 2))
    add_product(W, np.array([[1.0], [2.0]]), np.array([[3.0, 4.0]]))
    assert np.array_equal(W, [[4, 5], [7, 9]])
