"""Many small runs side by side, in the processes of workers.py.

A cell is a dict of plain settings; its record holds what a function returned for them.
"""

import contextlib
import functools
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..support import blas, machine
from ..support.files import check_kind, make_folder, naming, parse_json, read_text, write_atomically
from ..support.locks import writing
from ..support.terminal import bar, hides_bar
from ..support.values import whole
from .workers import each

Cell = dict[str, Any]  # the function's arguments by name: plain settings, the seed included
Record = dict[str, Any]  # {"cell", "result", "seconds" of one processor, "made_by"}
RECORD = {"cell": dict, "made_by": dict, "seconds": float}
START = '{"cell": {'  # every line begins with it


def run(
    function: Callable[..., Any],
    cells: Iterable[Cell],
    path: str | Path | None = None,
    *,
    jobs: int | None = None,
    dask: str | None = None,
    title: str = "cells",
    progress: bool | None = None,
    report: Callable[[Record], None] = lambda record: None,
    form: Any = object,
) -> list[Record]:
    """function(**cell) for every cell  ->  their records, in the order of the cells.

    function: defined at the top of a module; it takes and returns JSON values, and the same cell
    gives the same bits. path: a file of JSON lines, to which each record is added when its cell
    ends. A cell in the file is not run again, so an interrupted sweep continues. Records of other
    cells are kept, before these. Several runs may write to one file at a time.
    jobs: processes; None: one per core. dask: a scheduler's address, tcp://…, or "local" for a
    cluster of `jobs` workers on this machine. progress: show a bar (None: see `train`). report:
    called with each new record. form: the kind of a result, for `check_kind`.
    Raises ValueError if the file at path is not a file of records.
    """
    cells = list(cells)
    jobs = None if jobs is None else whole("cells: jobs", jobs, 1)
    done = {_key(record["cell"]): record for record in _records_before(path, form)}
    missing = [cell for key, cell in {_key(c): c for c in cells}.items() if key not in done]
    known, hidden = len(cells) - len(missing), hides_bar(progress)
    shown = bar(desc=title, total=len(cells), initial=known, disable=hidden, leave=False)
    calls = [(function, cell, made_by()) for cell in missing]
    with shown, contextlib.closing(each(_record, calls, jobs, dask)) as outcomes:
        for _, record in outcomes:
            done[_key(record["cell"])] = record
            if path:
                _append(path, record)
            report(record)
            shown.update()
    keys = [_key(cell) for cell in cells]
    if path and missing:
        _put_in_order(path, {key: done[key] for key in keys})
    return [done[key] for key in keys]


def read(path: str | Path, form: Any = object) -> list[Record]:
    """The records in a file, without a last line that was only partly written.

    form: the kind of their results, for `check_kind`. Raises FileNotFoundError, or ValueError
    that names the line that is not a record.
    """
    text = read_text(path)
    complete = text[: text.rfind("\n") + 1]
    cut_off = text[len(complete) :][: len(START)]
    if cut_off != START[: len(cut_off)]:
        raise ValueError(f"{path}: its last line, {cut_off!r}…, is not the start of a record")
    records = []
    for number, line in enumerate(complete.splitlines(), 1):
        place = f"{path} line {number}"
        record = parse_json(place, line)
        check_kind(place, "it", record, {**RECORD, "result": form})
        records.append(record)
    return records


def write(path: str | Path, records: Sequence[Record]) -> None:
    """Write these records into a file, one per line; an older file is replaced atomically."""
    write_atomically(path, "".join(json.dumps(r) + "\n" for r in records).encode())


def grid(**axes: Any) -> list[Cell]:
    """One cell for every combination; an axis is a list or tuple, any other value is in all cells.

    grid(method=["lora", "vera"], seed=[0, 1], lr=0.01)  ->  four cells, the last axis fastest.
    """
    cells: list[Cell] = [{}]
    for name, values in axes.items():
        choices = values if isinstance(values, list | tuple | range) else [values]
        cells = [{**cell, name: value} for cell in cells for value in choices]
    return cells


def _records_before(path: str | Path | None, form: Any) -> list[Record]:
    """The records that an earlier run left in the file. Raises OSError if it cannot be written."""
    if path is None:
        return []
    make_folder(Path(path).parent)
    with writing(path):
        return read(path, form) if Path(path).exists() else []


def _key(cell: Cell) -> str:
    return json.dumps(cell, sort_keys=True)


def _append(path: str | Path, record: Record) -> None:
    """Append a record's line to a file to which other runs may also write."""
    with naming(path), writing(path), open(path, "ab+") as file:
        file.seek(max(0, file.tell() - 1))
        if file.read(1) not in (b"", b"\n"):  # a run was killed while it wrote its line
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(record).encode() + b"\n")


def _put_in_order(path: str | Path, mine: dict[str, Record]) -> None:
    """Write the file again: the records of other cells, then these in the order of their cells."""
    with writing(path):
        there = read(path) if Path(path).exists() else []
        others = [record for record in there if _key(record["cell"]) not in mine]
        write(path, [*others, *mine.values()])


def _record(function, cell: Cell, origin: dict[str, Any]) -> Record:
    """Runs in the worker. "cell" comes first: see START."""
    start = _processor_seconds()
    result = function(**cell)
    seconds = round(_processor_seconds() - start, 2)
    return {"cell": cell, "result": result, "seconds": seconds, "made_by": origin}


def _processor_seconds() -> float:
    """Processor seconds of this process and of those that it started."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


@functools.cache
def made_by() -> dict[str, Any]:
    """The provenance of a record: versions, the checkout's commit, the processor."""
    versions = {k: v for k, v in machine.versions().items() if k in ("numpy", "numba")}
    return {
        "minilora": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **versions,
        "processor": machine.processor(),
        "blas": blas.kernels(),
    }


def _commit() -> str | None:
    """The commit of the package's checkout, with "+" if files differ from it.

    None for an installed package.
    """
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None

    def git(*words: str) -> str:
        out = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True)
        return out.stdout.strip()

    with contextlib.suppress(OSError):
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "minilora", "studies")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    return None
