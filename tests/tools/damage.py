"""Ways to damage a valid file: its bytes, its JSON, the header of a safetensors file; patterns of
layers that are slow.
"""

import copy
import json
import random
import struct
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63,
    2**64, -(2**63), 10**9, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e-30, 1e30, 1e308, float("nan"),
    float("inf"), float("-inf"), "", "0", "x", "a" * 10_000, "\x00", "\x1b[31m", "\u202e", "\ud800",
    "é", "../x", "/etc/passwd", "(.*.*)+X", "(a|a)*$", "[", "(?=a)", "F32", "BF16", "U8", "LORA",
    "VERA", [], {}, [[]], [{}], {"": {}}, [0], [0, 0], [-1], [2**40, 2**40], ["q_proj"],
    {"q_proj": 10**9}, {".*": 4},
)  # fmt: skip
# parts of regular expressions, what stands around some of them, and how often
ATOMS = (
    "a", ".", r"\w", r"\B", r"\b", "^", "$", "[a-z_]", "[^.]", "[\u0100-\ufff0]",
    r"[\u0100-\ufff0]",
    "é", "q_proj", r"\.", "(?i)", "[[a--b]", r"\1", "|", "\\", "[", ")",
)  # fmt: skip
AROUND = ("({})", "(?:{})", "(?={})", "(?!{})", "(?<={})", "(?<!x{})", "({}|{})", "(?P<x>{})")
COUNTS = ("", "", "*", "+", "?", "*?", "{3}", "{,}", "{1000}", "{0,60000}", "{4294967294}", "*+")
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7F800000, 0x7FC00000, 0xFF800000, 2**31, 2**32 - 1)


def damaged(name: str, data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """The bytes of a file after one to three changes. others: files from which parts are taken."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        ways = [_bytes] if rng.random() < 0.4 else [_of(name), _bytes]
        for way in ways:
            try:
                data = way(data, rng, others)
                break
            except (ValueError, TypeError, LookupError, struct.error, RecursionError):
                continue  # it no longer has its form
    return data


def with_patterns(data: bytes, rng: random.Random) -> bytes:
    """An adapter_config.json with 1 to 64 patterns that may be slow to read or to match."""
    config, n = json.loads(data), rng.choice((1, 3, 64))
    text = rng.choice(("", ".*")) + _pattern(rng, rng.randrange(5)) * rng.choice((1, 1, 40, 2000))
    keys = [f"{text[: rng.choice((60, 3900))]}{i}" for i in range(n)]
    field = rng.choice(("rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"))
    if field.endswith("_pattern"):
        config[field] = dict.fromkeys(keys, 2)
    else:
        config[field] = rng.choice((keys, keys[0]))
    return json.dumps(config).encode()


def _pattern(rng, depth):
    """A regular expression, valid or not, of so many levels."""
    if depth == 0:
        return rng.choice(ATOMS) + rng.choice(COUNTS)
    parts = "".join(_pattern(rng, rng.randrange(depth)) for _ in range(rng.choice((1, 2, 3))))
    return rng.choice(AROUND).replace("{}", parts) + rng.choice(COUNTS)


def _of(name):
    """The way of changing a file that fits its name."""
    endings = {".json": _json, ".jsonl": _lines, ".csv": _lines, ".safetensors": _safetensors}
    return next((way for end, way in endings.items() if name.endswith(end)), _bytes)


def _bytes(data, rng, others):
    """Flip a bit, write a number, cut, repeat a part, or insert a part of another file."""
    raw = bytearray(data)
    at = rng.randrange(len(raw) + 1)
    if rng.random() < 0.5:  # most formats store their lengths and types at the start
        at = min(at, rng.randrange(256))
    end = min(len(raw), at + rng.choice((1, 2, 4, 8, 16, 64, 1024)))
    way = rng.randrange(8)
    if way == 0 and at < len(raw):
        raw[at] ^= 1 << rng.randrange(8)
    elif way == 1:
        raw[at : at + 8] = rng.choice(NUMBERS).to_bytes(8, "little")
    elif way == 2:
        raw[at : at + 4] = rng.choice(NUMBERS).to_bytes(4, "little")
    elif way == 3:
        del raw[at:]
    elif way == 4:
        del raw[at:end]
    elif way == 5:
        raw[at:at] = raw[at:end] * rng.choice((1, 2, 100))
    elif way == 6:
        other = rng.choice(others)
        start = rng.randrange(len(other) + 1)
        raw[at:end] = other[start : start + end - at]
    else:
        raw[at:at] = rng.randbytes(rng.choice((1, 3, 8)))
    return bytes(raw)


def _lines(data, rng, others):
    """Change a line of JSON or the commas of a line, or repeat a line."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    if lines[at][:1] == b"{":
        lines[at] = _json(lines[at], rng, others)
    elif rng.random() < 0.5:
        lines[at] = lines[at].replace(b",", rng.choice((b"", b",,", b'"', b"\x00", b"\r")), 1)
    else:
        lines.insert(rng.randrange(len(lines)), lines[at])
    return b"\n".join(lines)


def _json(data, rng, others):
    value = json.loads(data)
    text = json.dumps(_changed(value, rng), indent=rng.choice((None, 1)))
    if rng.random() < 0.05:
        text = text.replace(":", ":" + "[" * rng.choice((10, 100, 100_000)), 1)
    return text.encode("utf-8", "surrogatepass")


def _changed(value: Any, rng: random.Random) -> Any:
    """A JSON value with one place changed; `value` itself may change, too."""
    places = list(_places(value))
    if not places:
        return rng.choice(ODD)
    parent, key = rng.choice(places)
    way = rng.randrange(7)
    if way == 0:
        del parent[key]
    elif way == 1:
        parent[key] = [parent[key]]
    elif way == 2:
        other, place = rng.choice(places)
        parent[key] = copy.deepcopy(other[place])
    elif way == 3 and isinstance(key, str):
        parent[rng.choice((key.upper(), key + "_", "", "x", "\x1b[2J"))] = parent.pop(key)
    elif way == 4 and _is_number(parent[key]):
        parent[key] = rng.choice((-parent[key], parent[key] + 1, parent[key] * 2, parent[key] / 3))
    elif way == 5 and isinstance(parent[key], str) and parent[key][:1] in "{[":
        parent[key] = json.dumps(_changed(json.loads(parent[key]), rng))  # JSON inside of JSON
    else:
        parent[key] = copy.deepcopy(rng.choice(ODD))
    return value


def _places(value):
    """(dict or list, key) of every value inside."""
    waiting = [value]
    while waiting:
        parent = waiting.pop()
        if not isinstance(parent, dict | list):
            continue
        pairs = parent.items() if isinstance(parent, dict) else enumerate(parent)
        for key, child in pairs:
            yield parent, key
            waiting.append(child)


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**62


def _safetensors(data, rng, others):
    """Change the header and adjust its length, or change numbers of the payload."""
    (length,) = struct.unpack("<Q", data[:8])
    header, payload = data[8 : 8 + length], bytearray(data[8 + length :])
    if rng.random() < 0.3 and len(payload) >= 4:
        at = rng.randrange(len(payload) // 4) * 4
        payload[at : at + 4] = rng.choice(NUMBERS).to_bytes(4, "little")
    else:
        header = _json(header, rng, others)
    return struct.pack("<Q", len(header)) + header + bytes(payload)
