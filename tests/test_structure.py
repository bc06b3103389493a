"""Rules that a program can check: who imports whom, who asks for a name, what is documented."""

import ast
import graphlib
import importlib.metadata
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import minilora as ml

PACKAGE = Path(ml.__file__).parent
COURSE = Path(__file__).parents[1] / "notebooks" / "minilora_course"

# Imports go down, or along a floor; a folder stands on one floor with all that is in it.
FLOORS = (
    {"support"},
    {"engine", "gradcheck", "strategies"},
    {"ops"},
    {"methods"},
    {"fast"},
    {"llama"},
    {"text", "formats"},
    {"tuning"},
    {"memory"},
    {"lab", "step"},
    {"bench", "check"},
    {"cli", "commands"},
    {"__init__", "__main__"},
    {"minilora_course"},  # outside of the package
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}

HEAVY = {  # import -> the files that may have it at their top
    "numba": "fast/",
    "llvmlite": "fast/",
    "matplotlib": "support/plots.py",
    "hypothesis": "strategies.py",
    "safetensors": "formats/",
    "joblib": "",
    "tokenizers": "",
}
FILES = sorted([*PACKAGE.rglob("*.py"), *COURSE.rglob("*.py")])


def module(path):
    """minilora/ops/basic.py -> ("ops", "basic"); of the course: ("minilora_course", "judge")."""
    top = PACKAGE if PACKAGE in path.parents else COURSE.parent
    return path.relative_to(top).with_suffix("").parts


def place_of(path):
    """minilora/ops/basic.py -> "ops/basic.py"."""
    return "/".join(module(path)) + ".py"


each_file = pytest.mark.parametrize("path", FILES, ids=place_of)


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def inner_imports(path):
    """Modules of minilora that a file imports, anywhere in it: ("ops", "basic")."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {tuple(name[1:]) for name in names if name[0] == "minilora"}
            found |= {tuple(name) for name in names if name[0] == COURSE.name}
        elif isinstance(node, ast.ImportFrom):
            start = (node.module or "").split(".") if node.module else []
            if node.level:
                start = [*module(path)[: -node.level], *start]
            elif start[:1] == ["minilora"]:
                start = start[1:]
            elif start[:1] != [COURSE.name]:
                continue
            for alias in node.names:
                whole = (*start, alias.name)
                found.add(whole if is_module(whole) else tuple(start))
                at_top = not start and not is_module(whole)
                assert not at_top or alias.name == "__version__", f"{path}: {alias.name}"
    return found - {()}


def is_module(parts):
    place = (COURSE.parent if parts[0] == COURSE.name else PACKAGE).joinpath(*parts)
    return place.with_suffix(".py").is_file() or place.is_dir()


@pytest.mark.smoke
def test_every_file_has_its_floor():
    for path in FILES:
        assert module(path)[0] in FLOOR, f"{path.name}: say in FLOORS whom it may import"


@each_file
def test_imports_go_down(path):
    mine = FLOOR.get(module(path)[0], len(FLOORS))
    for parts in inner_imports(path):
        assert FLOOR.get(parts[0], 0) <= mine, (
            f"{path.name} imports {'.'.join(parts)}, which stands above it"
        )


def test_the_engine_and_the_pages_are_read_without_the_engine_room():
    """It is imported when an op or AdamW is first called."""
    pages = "engine", "ops", "ops.adamw", "methods", "tuning.optim"
    code = f"""
import importlib, sys
for name in {pages}:
    importlib.import_module(f"minilora.{{name}}")
rooms = lambda: sorted(name for name in sys.modules if name.startswith("minilora.fast"))
print(rooms())
import numpy as np
from minilora import ops
ops.exp(np.ones(1))
print("minilora.fast.twins" in rooms())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["[]", "True"], done.stderr


def test_no_import_goes_in_a_circle():
    names = {module(path): path for path in FILES}
    graph = {}
    for parts, path in names.items():
        targets = {t if t in names else (*t, "__init__") for t in inner_imports(path)}
        graph[parts] = targets - {parts, (*parts[:-1], "__init__")}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@each_file
def test_heavy_imports_stand_where_they_are_needed(path):
    place = place_of(path)
    for node in parsed(path).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        for name in names:
            allowed = HEAVY.get(name.split(".")[0])
            assert allowed is None or (allowed and place.startswith(allowed)), f"{place}: {name}"
            assert not (name.startswith("numba") and path.stem in ("__init__", "kernels", "twins"))


@each_file
def test_only_declared_packages_are_imported(path):
    declared = {re.match(r"[\w-]+", r)[0] for r in REQUIREMENTS}
    declared |= {"llvmlite", "PIL", "IPython"}  # numba's own, Matplotlib's own, a notebook's own
    known = sys.stdlib_module_names | declared | {"minilora"}
    for node in ast.walk(parsed(path)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        for name in names:
            assert name.split(".")[0] in known, f"{path.name}:{node.lineno}: {name}"


def requirements():
    """What both pyproject.toml ask for, with extras; of the installed, where there is none."""
    projects = [folder / "pyproject.toml" for folder in (PACKAGE.parent, COURSE.parent)]
    if not projects[0].is_file():
        return importlib.metadata.requires("minilora") or []
    import tomllib

    found = []
    for project in projects:
        fields = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        found += fields["dependencies"]
        found += itertools.chain(*fields["optional-dependencies"].values())
    return found


REQUIREMENTS = requirements()


def test_the_engine_knows_no_mathematics():
    """It makes ones, adds gradients, and calls nothing else of NumPy's."""
    tree = ast.walk(parsed(PACKAGE / "engine.py"))
    names = {ast.unparse(node) for node in tree if isinstance(node, ast.Attribute)}
    used = {name for name in names if name.startswith("np.")}
    assert used == {"np.ndarray", "np.dtype", "np.ones_like"}


@each_file
def test_nothing_outside_methods_asks_for_a_method_by_name(path):
    if module(path)[0] == "methods":
        return
    for node in ast.walk(parsed(path)):
        asked = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        constants = {c.value for a in asked for c in ast.walk(a) if isinstance(c, ast.Constant)}
        named = constants & set(ml.METHODS)
        assert not named, (
            f"{path.name}:{node.lineno} compares with {named}: put it into the Method record"
        )


def public(tree):
    """(name, node) of the public functions and classes at the top, and of their methods."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield node.name, node
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            is_property = any(
                ast.unparse(d) == "property" for d in getattr(inner, "decorator_list", ())
            )
            if (
                isinstance(inner, ast.FunctionDef)
                and not inner.name.startswith("_")
                and not is_property
            ):
                yield f"{node.name}.{inner.name}", inner


@each_file
def test_docstrings_begin_with_a_sentence_or_an_equation(path):
    tree = parsed(path)
    assert not tree.body or ast.get_docstring(tree), f"{path.name}: say what it is"
    for name, node in public(tree):
        if path.name == "twins.py":  # the page has the words
            continue
        text = ast.get_docstring(node)
        assert text, f"{path.name}: {name} has no docstring"
        first = text.split("\n\n")[0].rstrip()  # a long sentence goes on in the next line
        says = first[-1] in ".:?" or "=" in first or "->" in first
        assert says, f"{path.name}: {name}: {first}"


def test_every_public_name_exists_and_has_a_docstring():
    assert sorted(set(ml.__all__)) == sorted(ml.__all__)
    for name in ml.__all__:
        thing = getattr(ml, name)
        assert thing.__doc__ or isinstance(thing, dict), name


def test_every_method_states_its_source_and_formula():
    for name, record in ml.METHODS.items():
        assert record.name == name and record.title and record.source and record.formula


def python(code):
    """What a fresh interpreter prints, warnings being errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.smoke
@pytest.mark.parametrize(
    "line, most",
    [
        ("import minilora", 0.2),
        ("from minilora.cli import parser; parser().format_help()", 0.3),
    ],
)
def test_import_and_help_are_light(line, most):
    """Not even NumPy, no warning, in little processor time (in one of some runs)."""
    light = ("numpy", *HEAVY)
    code = (
        "import sys, time; start = time.process_time()\n"
        f"{line}\n"
        "took = time.process_time() - start\n"
        f"print(took, *(name for name in {light} if name in sys.modules))"
    )
    for _ in range(5):
        took, *heavy = python(code).split()
        assert heavy == []
        if float(took) < most:
            return
    raise AssertionError(f"{line} takes {took} s")


def test_all_names_heavy_and_light():
    """Every public name comes on asking; NumPy's heavy friends stay out until they are used."""
    light = tuple(name for name in HEAVY if name != "safetensors")
    code = (
        "import sys, minilora as ml\n"
        "for name in ml.__all__: getattr(ml, name)\n"
        f"assert not [name for name in {light} if name in sys.modules]\n"
        "import minilora.gradcheck, minilora.check\n"
        "assert callable(ml.gradcheck) and callable(ml.check.check_pair)\n"
        "assert set(ml.__all__) <= set(dir(ml)) and ml.methods.METHODS is ml.METHODS\n"
        "from minilora import *\n"
        "assert train is ml.train\n"
        "try: ml.banana\n"
        "except AttributeError as error: print(error)\n"
    )
    assert python(code).strip() == "module 'minilora' has no attribute 'banana'"


def test_the_package_s_tables_of_names_agree():
    """Where each name is imported from, and what a type checker reads."""
    tree = parsed(PACKAGE / "__init__.py")
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    read = {node.module: sorted(alias.name for alias in node.names) for node in imports}
    assert read == {home: sorted(names) for home, names in ml.HOMES.items()}


def test_import_draws_nothing_and_sets_nothing():
    """The global random state, the environment and NumPy's error state stay as they were."""
    code = (
        "import os, numpy as np\n"
        "state = lambda: (np.random.get_state()[1].tobytes(), dict(os.environ), np.geterr())\n"
        "before = state()\n"
        "import minilora\n"
        "print(before == state())"
    )
    assert python(code).strip() == "True"
