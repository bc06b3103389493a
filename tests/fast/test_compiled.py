"""The compiled kernels on disk, and in several threads: each test in processes of its own."""

import os
import shutil
import subprocess
import sys

import pytest

from minilora.support.files import PACKAGE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("NUMBA_DISABLE_JIT", "0") != "0", reason="nothing is compiled"
    ),
]
PRELUDE = "import warnings; warnings.simplefilter('always')\n"
KERNEL = """
from minilora.fast.jit import aligned_empty
print(aligned_empty(2, 3).shape, sum(aligned_empty.stats.cache_hits.values()))
"""
# A package's folder, and the user's own, that cannot be written to: so Numba tests it.
READ_ONLY = """
import tempfile
def refused(*_, **__):
    raise PermissionError(13, "Permission denied")
tempfile.TemporaryFile = refused
"""


def run(script, package=PACKAGE.parent, **environment):
    """Run a script in a new process, which must end well -> (stdout, stderr). package: where the
    package lies.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script],
        capture_output=True,
        text=True,
        env={**clean, "PYTHONPATH": str(package), **environment},
        cwd=package,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def flipped(data):
    """One bit in the middle: of the machine code, in a data file."""
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


DAMAGES = {
    "empty": ("nbi", lambda data: b""),
    "cut off": ("nbc", lambda data: data[: len(data) // 2]),
    "a bit": ("nbc", flipped),
    "other bytes": ("nbi", lambda data: b"minilora" * 100),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder of compiled kernels, to copy."""
    folder = tmp_path_factory.mktemp("cache")
    assert run(KERNEL, NUMBA_CACHE_DIR=str(folder)) == ("(2, 3) 0\n", "")
    return folder


@pytest.mark.parametrize("ending, damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_compiled_again(cache, tmp_path, ending, damage):
    folder = tmp_path / "cache"
    shutil.copytree(cache, folder)
    assert run(KERNEL, NUMBA_CACHE_DIR=str(folder)) == ("(2, 3) 1\n", "")
    for path in folder.rglob(f"*.{ending}"):
        path.write_bytes(damage(path.read_bytes()))
    out, err = run(KERNEL, NUMBA_CACHE_DIR=str(folder))
    assert out == "(2, 3) 0\n"
    assert err.count("Warning") == 1 and "damaged" in err and str(folder) in err
    assert run(KERNEL, NUMBA_CACHE_DIR=str(folder)) == ("(2, 3) 1\n", "")


@pytest.fixture
def package(tmp_path):
    """A copy of the package, with nothing compiled in it."""
    shutil.copytree(PACKAGE, tmp_path / "minilora", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_where_nothing_can_be_written_it_compiles_in_memory(package):
    out, err = run(READ_ONLY + KERNEL, package)
    assert out == "(2, 3) 0\n"
    assert err.count("Warning") == 1 and "each process compiles them again" in err
    assert not list(package.rglob("*.nb?"))


def test_a_full_disk_is_a_warning(tmp_path):
    full = """
import errno, os
real = os.replace
def refused(old, new, **how):
    if str(new).endswith((".nbi", ".nbc")):
        raise OSError(errno.ENOSPC, "No space left on device")
    real(old, new, **how)
os.replace = refused
"""
    out, err = run(full + KERNEL, NUMBA_CACHE_DIR=str(tmp_path))
    assert out == "(2, 3) 0\n" and err.count("Warning") == 1 and "No space left" in err


def test_what_is_compiled_in_a_read_only_package_is_used(package):
    assert run(KERNEL, package) == ("(2, 3) 0\n", "")
    out, err = run(READ_ONLY + KERNEL, package)
    assert (out, err) == ("(2, 3) 1\n", "")
    # of another version of the sources: it is not used
    for path in package.rglob("*.nbi"):
        os.utime(path, (1e9, 1e9))
    no_unlink = "import pathlib; pathlib.Path.unlink = refused\n"
    out, err = run(READ_ONLY + no_unlink + KERNEL, package)
    assert out == "(2, 3) 0\n" and err.count("Warning") == 1


def test_an_edited_file_is_compiled_again_whatever_the_clock_says(package):
    """Of the files that a kernel calls too, which Numba does not look at."""
    assert run(KERNEL, package) == ("(2, 3) 0\n", "")
    assert run(KERNEL, package) == ("(2, 3) 1\n", "")
    path = package / "minilora" / "fast" / "threads.py"
    path.write_bytes(path.read_bytes() + b"# edited\n")
    os.utime(path, (1e9, 1e9))  # by a clock that was set back
    assert run(KERNEL, package) == ("(2, 3) 0\n", "")
    assert run(KERNEL, package) == ("(2, 3) 1\n", "")


@pytest.mark.parametrize("layer", ["workqueue", "default"])
def test_two_threads_may_use_the_kernels_at_once(layer):
    """Numba's work queue ends the process where two threads use it at the same time."""
    script = """
import threading
import numpy as np
from minilora.fast import threads
from minilora.fast.kernels import matmul_nt
import numba
a, b = (np.random.default_rng(0).random((512, 512), dtype=np.float32) for _ in "ab")
wanted, wrong = matmul_nt(a, b), []
def many():
    for _ in range(200):
        if not np.array_equal(matmul_nt(a, b), wanted):
            wrong.append(1)
workers = [threading.Thread(target=many) for _ in range(3)]
[w.start() for w in workers]
[w.join() for w in workers]
print(numba.threading_layer(), threads.THREADS, len(wrong))
"""
    out, _ = run(script, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    if layer == "workqueue":
        assert out == "workqueue 2 0\n"
    assert out.endswith(" 2 0\n")
