"""The records of the tools, and the tables of docs/reliability.md that are made from them.

python tests/tools/records.py          # rewrites the tables of the page
"""

import datetime
import importlib.metadata
import json
import platform
import re
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).with_name("records")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
TABLE = re.compile(r"^<!-- record: (\w+) -->\n(.*?)<!-- end -->$", re.M | re.S)


def write(path: Path, fields: dict[str, Any]) -> None:
    """A record: the fields, the day and the versions."""
    versions = {
        name: importlib.metadata.version(name) for name in ("numpy", "numba", "safetensors")
    }
    about = {"day": datetime.date.today().isoformat(), "python": platform.python_version()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**fields, "made_with": about | versions}, indent=1) + "\n")


def added(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, added to those of the earlier record at `path`: numbers are summed, lists are
    joined, both seeds are named. "mended", which is written by hand, is kept.
    """
    before = json.loads(path.read_text(encoding="utf-8"))
    seeds = f"{before['seed']}, {fields['seed']}"
    both = {k: _sum(before.get(k), v) for k, v in fields.items() if k != "seed"}
    by_hand = {"mended": before["mended"]} if "mended" in before else {}
    return {**both, **by_hand, "seed": seeds}


def _sum(a, b):
    if isinstance(a, dict) and isinstance(b, dict):
        return {k: _sum(a.get(k), b.get(k)) for k in {**a, **b}}
    return a if b is None else b if a is None else a + b


def read(name: str) -> dict[str, Any]:
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))


def markdown(head, rows) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def mutations(record) -> list[str]:
    """A row per room: mutants killed before and now, and their share of those a test can notice."""
    rows = []
    total = [0] * 5
    for room, first in record["rooms"].items():
        results = [r["result"] for r in record["survivors"] if r["room"] == room]
        same = results.count("equivalent") + results.count("gone")
        after = first["killed"] + results.count("killed")
        counts = [first["mutants"], same, first["killed"], after, results.count("survived")]
        total = [a + b for a, b in zip(total, counts)]
        rows.append([room, *counts])
    rows.append(["all", *total])
    head = ["room", "mutants", "equivalent", "killed before", "killed", "survived"]
    shares = [[f"{100 * row[k] / (row[1] - row[2]):.1f} %" for k in (3, 4)] for row in rows]
    return markdown([*head, "before", "now"], [row + share for row, share in zip(rows, shares)])


def fuzz(record) -> list[str]:
    rows = [[name, *counts.values()] for name, counts in record["cases"].items()]
    rows.append(["all", *(sum(row[i] for row in rows) for i in (1, 2, 3))])
    head = ["loader", "used", "refused", "escaped"]
    lines = markdown(head, [[name, *(f"{n:,}" for n in counts)] for name, *counts in rows])
    if computed := record.get("computed"):
        lines += ["", f"In {computed:,} seconds of one processor."]
    if mended := record.get("mended"):  # written by hand after a fix: case -> its test
        lines[-1] += f" What escaped was mended, and is a test now: {', '.join(mended.values())}."
    return lines


def faults(record) -> list[str]:
    rows = [[kind, n] for kind, n in sorted(record["rounds"].items())]
    rows.append(["all", sum(n for _, n in rows)])
    lines = markdown(["what breaks", "rounds"], rows)
    return [*lines, "", f"Losses: {len(record['losses'])}."]


def portability(record) -> list[str]:
    names = ("case", "python", "numpy", "numba", "tbb", "kernels")
    rows = [
        [*(row.get(name, "–") for name in names), "yes" if row["passed"] else "**no**"]
        for row in record["rows"]
    ]
    return markdown([*names, "passed"], rows)


def stress(record) -> list[str]:
    kib = f"{record['grown'] / 1024:,.0f} KiB more memory than after a tenth of them, at most"
    off = f"{record['off']:.1e} of the largest entry off the page in float64, at most"
    rows = [
        ["steps of LoRA on a tiny model", f"{record['steps']:,}", kib],
        [f"shapes of the {record['twins']} twins, in turn", f"{record['shapes']:,}", off],
    ]
    return markdown(["what", "how many", "what was seen"], rows)


KINDS = {f.__name__: f for f in (mutations, fuzz, faults, portability, stress)}


def table(name: str) -> str:
    """The table of a record, and how it was made."""
    record = read(name)
    made = ", ".join(f"{k} {v}" for k, v in record["made_with"].items() if k != "day")
    seed = f"seed {record['seed']}, " if "seed" in record else ""
    return "\n".join([*KINDS[name](record), "", f"{seed}{record['made_with']['day']}, {made}"])


def tables() -> list[tuple[str, str]]:
    """(record, its table) as the page has them."""
    return [(m[1], m[2].strip()) for m in TABLE.finditer(PAGE.read_text(encoding="utf-8"))]


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    again = TABLE.sub(lambda m: f"<!-- record: {m[1]} -->\n\n{table(m[1])}\n\n<!-- end -->", text)
    PAGE.write_text(again, encoding="utf-8")


if __name__ == "__main__":
    main()
