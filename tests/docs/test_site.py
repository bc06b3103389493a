"""The site: the calculator's formulas against the ledger, and what the build makes of pages."""

import importlib
import importlib.metadata
import importlib.util
import json
import random
import sys
import tomllib
import warnings
from pathlib import Path

import pytest

import minilora as ml
from minilora.memory.count import count
from minilora.tuning.storage import export

SITE = Path(__file__).parents[2] / "docs" / "site"
if not SITE.is_dir():
    pytest.skip("an installed package has no site", allow_module_level=True)


def load(name):
    """A file of docs/site as a module."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", SITE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


formulas, cases, tex = load("formulas"), load("cases"), load("tex")


@pytest.mark.parametrize("seed", range(4))
def test_the_formulas_are_the_ledger_to_the_byte(seed):
    """50 random shapes, techniques, ranks, targets, batches, lengths and precisions a seed."""
    rng = random.Random(seed)
    for case in (cases.draw(rng) for _ in range(50)):
        found = formulas.evaluate(**case)
        wanted = cases.ledger_of(case)
        assert {name: found[name] for name in wanted} == wanted, case


def test_trained_numbers_are_those_of_count():
    """Also for shapes that are no Llama."""
    for name, shape in ml.llama.shapes.SHAPES.items():
        for method in ml.METHODS:
            t = formulas.technique(ml.METHODS[method])
            how = {} if t["rank"] is None else {"rank": 4, "targets": "all-linear"}
            each = [formulas.weigh(t["trained"], I, O, 4) for O, I in shape.linears().values()]
            assert count(shape, method, **how)["trainable"] == sum(each), (name, method)


def test_an_adapter_s_file_has_as_many_numbers_as_is_said():
    """For every technique and a model whose linears have different shapes."""
    base = ml.load_model("base")
    targets = ("q_proj", "k_proj", "down_proj")
    for method, record in ml.METHODS.items():
        how = {} if record.whole_model else {"rank": 5, "targets": targets}
        _, arrays = export(ml.attach(base, method, **how))
        found = formulas.evaluate(base.config, method, 5, targets, 1, 1)
        assert found["disk_numbers"] == sum(a.size for a in arrays.values()), method


def test_a_count_that_is_no_sum_of_products_is_refused():
    with pytest.raises(ValueError, match="no sum of products"):
        formulas.in_sizes(lambda I, O, r: r * r * I)


def test_more_of_a_step_than_is_alive_is_not_dropped():
    """`largest` drops a sum only where another has as much of everything."""
    n = len(formulas.PRODUCTS)
    one, other = [0] * (2 * n), [0] * (2 * n)
    one[formulas.PRODUCTS.index(("M", "C"))] = 1
    other[formulas.PRODUCTS.index(("R1", "C"))] = 1
    assert len(formulas.largest(formulas.np.array([one, other]))) == 1  # M >= R1
    other[formulas.PRODUCTS.index(("R1", "F"))] = 1
    assert len(formulas.largest(formulas.np.array([one, other]))) == 2


def test_the_browser_gets_cases_that_the_ledger_has_answered():
    """What the browser's check compares with: values, verdicts, and errors in words."""
    drawn = json.loads(json.dumps(cases.browser_cases(6, seed=1)))
    right = [case for case in drawn if "error" not in case]
    assert len(right) >= 6 and all(case["wanted"]["trained numbers"] > 0 for case in right)
    assert sum("config" in case for case in right) >= 2
    assert all(case["error"] for case in drawn if "error" in case)


def test_what_the_calculator_refuses_read_config_refuses_too(tmp_path):
    for text, _ in cases.WRONG_CONFIGS:
        path = tmp_path / "config.json"
        path.write_text(text)
        with pytest.raises(ValueError), warnings.catch_warnings():
            ml.formats.config.read_config(path)


def test_links_become_pages_of_the_site(tmp_path):
    stage = load("stage").Stage(tmp_path)
    text = "[a](../minilora/engine.py#L3) [b](memory.md#x) ![c](figures/lora.png) [d](../tests/) [e](https://x.y)"
    assert stage.linked(text, "docs/claims.md") == (
        "[a](../source/minilora/engine.py.md) [b](memory.md#x) ![c](figures/lora.png) "
        "[d](../source/tests/index.md) [e](https://x.y)"
    )
    assert stage.waiting == ["minilora/engine.py", "tests"]
    stage.source("minilora/engine.py")
    shown = (tmp_path / "source" / "minilora" / "engine.py.md").read_text()
    assert "class Tensor" in shown


TYPESET = [  # a docstring's text, with its formulas as TeX between dollars
    (
        "y = x Wᵀ + s (xa Aᵀ) Bᵀ, xa = x, or",
        r"$y=x\,W^{\top}+s\,(\mathit{xa}\,A^{\top})\,B^{\top}$, $\mathit{xa}=x$, or",
    ),
    ("columns: Λ_b B Λ_d A x.", r"columns: $\Lambda _{b}\,B\,\Lambda _{d}\,A\,x$."),
    (
        "so W - W₀ = λ s (B'A' - B_start A)",
        r"so $W-W_{0}=\lambda \,s\,(B'A'-B_{\mathrm{start}}\,A)$",
    ),
    (
        "dB ← dB (A Aᵀ)⁻¹ / s²: with",
        r"$\mathit{dB}\leftarrow \mathit{dB}\,(A\,A^{\top})^{-1}/s^{2}$: with",
    ),
    (
        "of min ‖s dB A - dW‖.",
        r"of $\operatorname{min}\,\lVert s\,\mathit{dB}\,A-\mathit{dW}\rVert$.",
    ),
    ("v̂ = v / (1-β₂ⁿ) at step n", r"$\hat{v}=v/(1-\beta _{2}^{n})$ at step n"),
    ("in ±√(6/I) (Kaiming with a = √5)", r"in $\pm \sqrt{6/I}$ (Kaiming with $a=\sqrt{5}$)"),
    ("r = (mean + eps)^-½", r"$r=(\mathit{mean}+\varepsilon )^{-1/2}$"),
    ("norm = √Σ V² over a row", r"$\mathit{norm}=\sqrt{\sum V^{2}}$ over a row"),
    (
        "softmax(z) - onehot(target) is",
        r"$\operatorname{softmax}(z)-\operatorname{onehot}(\mathit{target})$ is",
    ),
    ("x (M, I), W (O, I) frozen  ->  y (M, O).", None),
    ("LoRA+: a low-rank change, A's and B's; 2 % of K, section 4.1.", None),
    ("The operators + - * / of Tensor, arXiv:2402.12354 (eq. 2)", None),
]


@pytest.mark.parametrize("text, wanted", TYPESET)
def test_the_formulas_of_a_text_are_typeset(text, wanted):
    found = tex.pieces(text, {"xa", "mean", "eps"})
    assert "".join(f"${part}$" if kind == "math" else part for kind, part in found) == (
        wanted or text
    )


def test_every_technique_has_a_formula_that_is_typeset():
    """And the braces of each formula close: the browser's check draws them all."""
    for name, record in ml.METHODS.items():
        module = importlib.import_module(f"minilora.methods.{name}")
        docs = [record.formula, module.__doc__, record.op.forward.__doc__, record.delta.__doc__]
        found = [part for text in docs for kind, part in tex.pieces(text) if kind == "math"]
        assert found and all(part.count("{") == part.count("}") for part in found), name


def test_every_figure_of_a_notebook_gets_its_words():
    stage = load("stage")
    for path in sorted((SITE.parent.parent / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            pictures = [o for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})]
            assert len(list(stage.alternatives(cell))) == len(pictures) <= 1, path


@pytest.mark.parametrize(
    "address, branch, wanted",
    [
        ("https://github.com/Some-One/lora", "main", ("https://github.com/Some-One/lora", "main")),
        ("https://github.com/me/lora.git", "a/b", ("https://github.com/me/lora", "a%2Fb")),
        ("https://github.com/me/lora/", "v1", ("https://github.com/me/lora", "v1")),
    ],
)
def test_the_address_of_the_buttons_is_one_that_colab_and_binder_know(
    address, branch, wanted, monkeypatch
):
    """pyproject.toml's Repository may be what git clone takes; a branch may have a slash."""
    monkeypatch.setenv("MINILORA_REPOSITORY", address)
    monkeypatch.setenv("MINILORA_BRANCH", branch)
    monkeypatch.setattr(sys, "path", [*sys.path])
    options = load("conf").html_theme_options
    assert options["navbar_persistent"] == []  # the search is in the sidebar, and only there
    assert (options["repository_url"], options["repository_branch"]) == wanted


def test_colab_has_a_button_where_its_copy_installs_minilora(monkeypatch):
    """With an address that the committed notebooks do not name, there is none; Binder has one."""
    monkeypatch.setenv("MINILORA_REPOSITORY", "https://github.com/nobody/nothing")
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert list(load("conf").html_theme_options["launch_buttons"]) == ["binderhub_url"]
    monkeypatch.setattr(sys.modules["launch"], "ready", lambda repository: True)
    assert "colab_url" in load("conf").html_theme_options["launch_buttons"]


def test_the_site_has_the_version_of_the_installed_package(monkeypatch):
    about = {"Version": "12.3", "Author": "nobody"}
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: about)
    monkeypatch.setattr(sys, "path", [*sys.path])
    conf = load("conf")
    assert (conf.version, conf.author) == ("12.3", "nobody")
    assert conf.html_theme_options["extra_footer"] == "minilora 12.3"


def test_binder_gets_a_python_that_the_package_accepts():
    """Its own default is older; and the library with its course."""
    folder = SITE.parent.parent / ".binder"
    project = tomllib.loads((SITE.parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
    given = (folder / "runtime.txt").read_text().strip().removeprefix("python-")
    assert f"Programming Language :: Python :: {given}" in project["classifiers"]
    installed = (folder / "requirements.txt").read_text().splitlines()
    assert {"-e .", "-e ./notebooks[jupyter]"} <= {*installed}
