"""Damaged files for every loader: it must refuse each with an error that names it, or load it.

    python tests/tools/fuzz.py --seconds 120            # a new seed, which is printed
    python tests/tools/fuzz.py --seconds 60 --seed 7 --readers lora,gguf
    python tests/tools/fuzz.py --case build/fuzz/lora-7-123      # run a kept case again

A case is one of the valid examples below with one to three changes (`damage.py`). It passes if the
loader raises a ValueError or an OSError that names the file or its folder, or if the loaded object
can be used without an error: logits, a training step, a page. A case may take 2 seconds of
processor time and 200 MB of memory. The files of a case that fails are kept. Not on Windows.
"""

import argparse
import collections
import functools
import json
import math
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

os.environ.setdefault("MINILORA_KERNELS", "numpy")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "0")
ROOT = Path(__file__).resolve().parents[2]
ROOMS = (ROOT, *(ROOT / "tests" / room for room in ("", "formats", "fast", "tools")))
sys.path[:0] = map(str, ROOMS)

import numpy as np
import records
from conftest import make_llama
from damage import damaged, with_patterns

import minilora as ml
from minilora.llama.model import EMBED
from minilora.support.machine import forget_peak
from minilora.tuning import checkpoints
from minilora.tuning.train import Diverged

SECONDS, BYTES = 2.0, 200 << 20  # of one case
LOADING = 1.0  # seconds of an adapter with any patterns; alone on a processor 0.2
HANGS = 300.0  # seconds by the clock after which a case is ended; other programs may slow it
CASES = 20_000  # in a process
MEMORY = Path("/dev/shm")  # files here do not use the disk
IDS = np.array([[1, 2, 3, 4]])
BATCH = [(IDS, np.array([[2, 3, 4, 5]]))]


class Useless(Exception):
    """The loaded object cannot be used."""


# ---------------------------------------- uses of a loaded file


@functools.cache
def base():
    """The base of the adapters."""
    return make_llama(dtype=np.float32, num_hidden_layers=1, tokenizer=tokenizer())


@functools.cache
def deep():
    """A base of 210 linears, for patterns of their names."""
    return make_llama(dtype=np.float32, num_hidden_layers=30)


@functools.cache
def tokenizer():
    from minilora.text.tokenizer import CharTokenizer

    return CharTokenizer.from_characters("abcdefghijklmnopqrstuvwxyz ")


def use_model(path) -> None:
    """Compute the model's logits; encode and decode with its tokenizer."""
    model = ml.load_model(path)
    ids = IDS % model.config.vocab_size
    logits = model.logits(ids)
    if logits.shape != (1, 4, model.config.vocab_size):
        raise Useless(f"logits of shape {logits.shape}")
    if not np.isfinite(logits).all() and _largest(model.params) < 1e4:
        raise Useless("logits that are not finite")
    if model.tokenizer:
        try:
            found = model.tokenizer.encode("a cab")
        except ValueError as error:  # a letter without a token
            if not str(error).startswith("tokenizer: "):
                raise
            return
        if not all(0 <= i < model.config.vocab_size for i in found):
            raise Useless(f"ids outside of the vocabulary: {found}")
        model.tokenizer.decode(list(range(model.tokenizer.vocab_size))[:64])


def use_tuned(tuned) -> None:
    """Compute logits of an adapted model, and train it for a step."""
    start = {k: a.copy() for k, a in tuned.arrays.items()}
    large = max(_largest(tuned.arrays), abs(tuned.alpha or 1)) > 1e4
    logits = tuned.logits(IDS)
    if not np.isfinite(logits).all() and not large:
        raise Useless("logits that are not finite")
    try:
        ml.train(tuned, BATCH, steps=1, lr=1e-3)
    except Diverged:
        if not large:
            raise Useless("the first step diverges") from None
    for key, a in start.items():
        if tuned.arrays[key].shape != a.shape:
            raise Useless(f"{key} changed its shape")


def _largest(arrays) -> float:
    return max((float(np.abs(a).max()) for a in arrays.values() if a.size), default=0.0)


def use_patterns(folder) -> None:
    """An adapter whose patterns are matched, or refused, soon."""
    start = time.process_time()
    try:
        tuned = ml.load_adapter(deep(), folder)
    finally:
        if (took := time.process_time() - start) > LOADING:
            raise Useless(f"patterns: {took:.1f} s")
    tuned.logits(IDS)


def use_log(path) -> None:
    """The log of a run that goes on after its second step."""
    from minilora.tuning.callbacks import Log, Run
    from minilora.tuning.history import History

    run = Run(None, History([1.0] * 3, [0.1] * 3, [0.0] * 3), steps=4, step=2, save=None)
    log = Log(path)
    log.start(run)
    run.step = 3
    log.step(run)
    steps = [json.loads(line)["step"] for line in path.read_bytes().split(b"\n")[:-1]]
    if steps.pop() != 3 or any(step > 2 for step in steps):
        raise Useless(f"lines of the steps {steps}, 3")


def use_checkpoint(path) -> None:
    """Resume a run from it, and load it as an adapter."""
    tuned = ml.attach(base(), "delta_lora", rank=2)
    how = {"lr": 1e-2, "steps": 3, "checkpoint": path, "resume": True}
    refused = None
    try:
        history = ml.train(tuned, BATCH, **how)
        if len(history.losses) != 3 or not all(map(math.isfinite, history.losses)):
            raise Useless(f"a history of {history.losses}")
    except Diverged:  # finite numbers may be too large for a step; the error says where
        pass
    except ValueError as error:
        refused = error
    use_tuned(ml.load_adapter(base(), path))
    if refused:
        raise refused


def use_results(folder) -> None:
    from minilora.lab import page, report, table

    results = report.read_results(folder)
    html = page.page(results, dict.fromkeys(report.FIGURES, b"png"))
    if "</html>" not in html or not table.table(results):
        raise Useless("no page")


def use_records(path) -> None:
    """Continue a sweep: the records in the file are used, the missing cells are run and written."""
    from minilora.lab import cells, forms, sweep

    before = cells.read(path, forms.WORD_RUN)
    with mock.patch.object(cells, "each", _here):
        records = cells.run(_score, CELLS, path, progress=False, form=forms.WORD_RUN)
    if [record["cell"] for record in records] != CELLS or not sweep.table(records):
        raise Useless("records of other cells")
    if not all(record in cells.read(path) for record in (*before[:1], *records)):
        raise Useless("a record is lost")


def _here(function, calls, *_):
    """In place of the workers."""
    yield from ((place, function(*call)) for place, call in enumerate(calls))


def _score(**cell):
    score = {"exact_match": 0.5, "loss": 1.0}
    return {"validation": score, "test": score}


CELL = {"method": "lora", "task": "past", "train_size": 40, "options": {}, "lr": 0.01, "rank": 2}
CELLS = [{**CELL, "seed": seed} for seed in range(3)]


def use_rates(path) -> None:
    from minilora.lab import rates
    from minilora.lab.settings import Settings

    record = rates.read(path)
    for choice in rates.chosen_for("past", record).values():
        if not math.isfinite(choice["lr"]) or choice["lr"] < 0:
            raise Useless(f"a rate of {choice['lr']}")
    rates.differences(Settings(), "", record)


def use_pairs(path) -> None:
    from minilora.text.batches import all_once
    from minilora.text.pairs import read_pairs

    pairs = read_pairs(path)
    for ids, targets in all_once(pairs[:8], _any_text()):
        if ids.shape != targets.shape:
            raise Useless("ids and targets of two shapes")


def _any_text():
    """A tokenizer that accepts every text, so that only the pair itself can be refused."""

    class Bytes:
        pad_id, eos_id = 0, 256

        def encode(self, text):
            return list(text.encode("utf-8", "surrogatepass"))

        def turns(self, messages):
            return [(m["content"], m["role"] == "assistant") for m in messages]

    return Bytes()


def use_config(path) -> None:
    from minilora.commands.sizes import _shape_or_config
    from minilora.memory.count import table

    rows = table(_shape_or_config(str(path)), rank=2)
    if not all(isinstance(row["trainable"], int) for row in rows.values()):
        raise Useless(f"counts {rows}")


# ---------------------------------------- valid examples


def of_model(folder) -> None:
    ml.save_model(base(), folder)


def of_shards(folder) -> None:
    """A model in two files, one of them in bfloat16."""
    from minilora.formats.safetensors import write_arrays

    ml.save_model(base(), folder)
    (folder / "model.safetensors").unlink()
    names = sorted(base().params)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    write_arrays(folder / "a.safetensors", {n: base().params[n] for n in names[::2]})
    _bfloat16(folder / "b.safetensors", {n: base().params[n] for n in names[1::2]})
    index = {"weight_map": {name: shard for shard, its in shards.items() for name in its}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _bfloat16(path, arrays) -> None:
    header, body = {}, b""
    for name, a in arrays.items():
        half = (a.view(np.uint32) >> 16).astype("<u2").tobytes()
        places = [len(body), len(body) + len(half)]
        header[name] = {"dtype": "BF16", "shape": list(a.shape), "data_offsets": places}
        body += half
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def of_gguf(folder) -> None:
    from test_gguf import Q8_0, gguf, llama, packed, parts

    about, tensors = parts(llama())
    for name in ("blk.0.ffn_up.weight", "token_embd.weight"):
        a = llama().params[{"t": EMBED, "b": "model.layers.0.mlp.up_proj.weight"}[name[0]]]
        tensors[name] = a.shape, Q8_0, packed(a, Q8_0)
    (folder / "model.gguf").write_bytes(gguf(about, tensors))


def of_adapter(folder, method="lora", **options) -> None:
    tuned = ml.attach(base(), method, **{"targets": ("q_proj", "v_proj"), **options})
    ml.train(tuned, BATCH, steps=1, lr=1e-2)
    ml.save_adapter(tuned, folder)


def of_patterns(folder) -> None:
    ml.save_adapter(ml.attach(deep(), "lora", rank=2, targets="all-linear"), folder)


def of_log(folder) -> None:
    lines = [{"step": n, "loss": 1.5, "rate": 0.1, "seconds": 0.2} for n in range(1, 5)]
    lines.insert(2, {"step": 2, "evaluation": {"score": [0.5]}})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def of_checkpoint(folder) -> None:
    tuned = ml.attach(base(), "delta_lora", rank=2)
    ml.train(tuned, BATCH, steps=2, lr=1e-2, checkpoint=folder / "run.safetensors")


def of_results(folder) -> None:
    from results import make_results

    (folder / "results.json").write_text(json.dumps(make_results()))


def of_records(folder) -> None:
    about = {"seconds": 1.0, "made_by": {"commit": "0"}}
    lines = [{"cell": cell, "result": _score(**cell), **about} for cell in CELLS]
    (folder / "sweep.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def of_rates(folder) -> None:
    from minilora.lab.rates import default_path

    shutil.copy(default_path(), folder / "tuning.json")


def of_jsonl(folder) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    lines = [{"prompt": "walk", "completion": "walked"}, {"messages": chat}]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))


def of_csv(folder) -> None:
    (folder / "data.csv").write_text('prompt,completion\nwalk,walked\n"a ""b""","c,\nd"\n')


def of_config(folder) -> None:
    from minilora.formats.config import config_json

    (folder / "config.json").write_text(json.dumps(config_json(base())))


def of_byte_pairs(folder) -> None:
    """A model with a tokenizer of the `tokenizers` library."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:20]
    vocab = {token: i for i, token in enumerate(["<s>", "</s>", *letters, "ab"])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    ml.save_model(make_llama(dtype=np.float32, num_hidden_layers=1), folder)
    made.save(str(folder / "tokenizer.json"))
    about = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def _adapted(folder) -> None:
    use_tuned(ml.load_adapter(base(), folder))


# name -> a function that writes a valid example into a folder, one that uses it, the file passed to
# it (None: the folder), the files to damage (empty: all)
READERS: dict[str, tuple[Callable, Callable, str | None, tuple[str, ...]]] = {
    "model": (of_model, use_model, None, ()),
    "shards": (of_shards, use_model, None, ()),
    "config": (of_config, use_config, "config.json", ()),
    "tokenizer": (of_byte_pairs, use_model, None, ("tokenizer.json", "tokenizer_config.json")),
    "gguf": (of_gguf, use_model, "model.gguf", ()),
    "lora": (of_adapter, _adapted, None, ()),
    "vera": (functools.partial(of_adapter, method="vera", rank=4), _adapted, None, ()),
    "delta_lora": (functools.partial(of_adapter, method="delta_lora"), _adapted, None, ()),
    "dora": (functools.partial(of_adapter, method="dora"), _adapted, None, ()),
    "patterns": (of_patterns, use_patterns, None, ("adapter_config.json",)),
    "log": (of_log, use_log, "log.jsonl", ()),
    "checkpoint": (of_checkpoint, use_checkpoint, "run.safetensors", ()),
    "results": (of_results, use_results, None, ()),
    "records": (of_records, use_records, "sweep.jsonl", ()),
    "rates": (of_rates, use_rates, "tuning.json", ()),
    "jsonl": (of_jsonl, use_pairs, "data.jsonl", ()),
    "csv": (of_csv, use_pairs, "data.csv", ()),
}


@functools.cache
def example(reader: str) -> dict[str, bytes]:
    """File name -> bytes of the valid example."""
    with tempfile.TemporaryDirectory() as folder:
        READERS[reader][0](Path(folder))
        return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir()) if p.is_file()}


def case(reader: str, seed: int, n: int) -> dict[str, bytes]:
    """File name -> bytes of the n-th case."""
    rng = random.Random(f"{seed} {reader} {n}")
    files = dict(example(reader))
    name = rng.choice(READERS[reader][3] or sorted(files))
    if reader == "patterns":
        files[name] = with_patterns(files[name], rng)
    else:
        files[name] = damaged(name, files[name], rng, [*files.values()])
    if reader == "checkpoint" and rng.random() < 0.7:
        files[name] = with_checksum(files[name])
    return files


def with_checksum(data: bytes) -> bytes:
    """A checkpoint with its checksum corrected, if it is still a safetensors file."""
    import safetensors.numpy

    try:
        arrays = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = header["__metadata__"]
        about[checkpoints.CHECKSUM] = checkpoints.checksum(arrays, about[checkpoints.ABOUT])
        return safetensors.numpy.save(arrays, about)
    except Exception:
        return data


# ---------------------------------------- one case


def outcome(reader: str, files: dict[str, bytes], folder: Path) -> str:
    """ "used", "refused", or a text that says what is wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return judged(reader, folder)


def judged(reader: str, folder: Path) -> str:
    """`outcome` for files that are already in the folder."""
    _, use, given, _ = READERS[reader]
    forget_peak()
    start, before = time.process_time(), _most_bytes()
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            use(folder / given if given else folder)
        said = "used"
    except (ValueError, OSError) as error:
        named = str(folder) in str(error) and "this should not happen" not in str(error)
        said = "refused" if named else f"does not name the file: {traceback.format_exc()}"
    except BaseException:
        said = traceback.format_exc()
    if (took := time.process_time() - start) > SECONDS:
        return f"took {took:.1f} s; {said}"
    if (more := _most_bytes() - before) > BYTES:
        return f"took {more >> 20} MB; {said}"
    return said


def _most_bytes() -> int:
    """This process's peak of memory in bytes; on Linux since `forget_peak`."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


# ---------------------------------------- many cases


def work(readers, seed: int, cases: range, end: float, top: Path, keep: Path, out) -> None:
    """Run these cases in this process; write a line before and a line after each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit = _most_bytes() + (2 << 30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for reader in readers:
        found = outcome(reader, example(reader), top / "case")
        assert found == "used", f"the valid example of {reader}: {found}"
    start = _most_bytes()
    for n in cases:
        if time.monotonic() > end:
            break
        reader = readers[n % len(readers)]
        print(json.dumps([n]), file=out, flush=True)
        _end_after(10 * SECONDS)
        said = outcome(reader, case(reader, seed, n), top / "case")
        if said not in ("used", "refused"):
            shutil.copytree(top / "case", keep / f"{reader}-{seed}-{n}", dirs_exist_ok=True)
        print(json.dumps([n, said]), file=out, flush=True)
        if _most_bytes() - start > BYTES // 4:  # malloc does not return memory
            break


def _end_after(seconds: float) -> None:
    """End this process after `seconds` more of processor time."""
    soft = math.ceil(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def campaign(readers, seed: int, seconds: float, keep: Path, most: int = 10**9):
    """Run cases until the time is over or there are `most`; returns counts of outcomes, escapes."""
    counts: collections.Counter = collections.Counter()
    escapes = []
    end, n = time.monotonic() + seconds, 0

    def note(n, said):
        reader = readers[n % len(readers)]
        passed = said in ("used", "refused")
        counts[reader, said if passed else "escaped"] += 1
        if not passed:
            name = f"{reader}-{seed}-{n}"
            print(f"{keep / name}: {said.strip()}", flush=True)
            escapes.append(f"{name}: {said.strip().splitlines()[-1]}")

    where = MEMORY if os.access(MEMORY, os.W_OK) else None
    while time.monotonic() < end and n < most:
        with tempfile.TemporaryDirectory(prefix="fuzz-", dir=where) as folder:
            reading, writing = os.pipe()
            if not (pid := os.fork()):
                os.close(reading)  # so that a worker ends when this process, the only reader, ends
                cases, out = range(n, min(n + CASES, most)), os.fdopen(writing, "w")
                _begin(work, readers, seed, cases, end, Path(folder), keep, out)
            os.close(writing)
            begun = None
            for at, *said in _lines_of(reading, pid):
                begun, n = (None, at + 1) if said else (at, n)
                if said:
                    note(at, *said)
            _, status = os.waitpid(pid, 0)
            if begun is not None:
                name = f"{readers[begun % len(readers)]}-{seed}-{begun}"
                shutil.copytree(Path(folder) / "case", keep / name, dirs_exist_ok=True)
                note(begun, f"it ended or hung the process: {os.waitstatus_to_exitcode(status)}")
                n = begun + 1
            elif status:
                sys.exit("fuzz: the valid examples are refused")
    return counts, escapes


def _begin(function, *args) -> None:
    """Run a function in a forked process, and end the process after it."""
    code = 1
    try:
        function(*args)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _lines_of(pipe, pid):
    """The lines that a worker writes; a worker that is silent for too long is killed."""
    text = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], HANGS)
        if not ready:
            os.kill(pid, signal.SIGKILL)
        data = os.read(pipe, 1 << 16) if ready else b""
        if not data:
            os.close(pipe)
            return
        *lines, text = (text + data).split(b"\n")
        yield from map(json.loads, lines)


def _seconds_of_workers() -> float:
    """Processor seconds of the workers."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    about = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    about.add_argument("--seconds", type=float, default=120)
    about.add_argument("--cases", type=int, default=10**9, help="most cases")
    about.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    about.add_argument("--readers", default=",".join(READERS), help="of " + ", ".join(READERS))
    about.add_argument("--keep", type=Path, default=ROOT / "build" / "fuzz")
    about.add_argument("--case", type=Path, help="run this kept folder again")
    about.add_argument("--record", type=Path, help="a JSON file for the counts")
    about.add_argument("--more", action="store_true", help="add to the record's counts")
    asked = about.parse_args()
    if asked.case:
        said = judged(asked.case.resolve().name.split("-")[0], asked.case.resolve())
        print(said)
        return said not in ("used", "refused")
    readers = asked.readers.split(",")
    print(f"fuzz: seed {asked.seed}, {asked.seconds:g} s", flush=True)
    counts, escapes = campaign(readers, asked.seed, asked.seconds, asked.keep, asked.cases)
    rows = {}
    for reader in readers:
        rows[reader] = {what: counts[reader, what] for what in ("used", "refused", "escaped")}
        print(f"{reader:12}" + "".join(f"{n:9,} {what}" for what, n in rows[reader].items()))
    total, computed = sum(counts.values()), _seconds_of_workers()
    print(f"fuzz: seed {asked.seed}, {total:,} cases, {len(escapes)} escapes")
    print(f"fuzz: {computed:,.0f} s of the processor, {total / computed:.0f} cases in each")
    if asked.record:
        fields = {"seed": asked.seed, "seconds": asked.seconds, "computed": round(computed)}
        fields |= {"cases": rows, "escapes": escapes}
        records.write(asked.record, records.added(asked.record, fields) if asked.more else fields)
    return bool(escapes)


if __name__ == "__main__":
    sys.exit(main())
