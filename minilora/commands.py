"""What each command does: arguments in, a call of the package, lines out."""

import json

from .files import make_folder, nearest
from .methods import METHODS


def settings_of(a):
    """Settings from a command line. A bare --rank is of the techniques whose rank is bounded by the
    width; VeRA's stays, unless it is given by name.
    """
    from .experiments.compare import Settings

    methods = tuple(dict.fromkeys(a.methods if a.methods is not None else METHODS))
    if not methods:
        raise ValueError(f"--methods: got none, wanted some of {', '.join(METHODS)}")
    for name, value in (("steps", a.steps), ("seeds", a.seeds), ("train-size", a.train_size)):
        if value < 1:
            raise ValueError(f"--{name} is {value}, wanted a whole number of at least 1")
    own = {k: _whole("--rank", v) for k, _, v in (r.partition("=") for r in a.rank if "=" in r)}
    common = [_whole("--rank", r) for r in a.rank if "=" not in r]
    for name in (*methods, *own):
        if name not in METHODS:
            raise nearest("method", name, METHODS)
    wide = {name: r.default_rank for name, r in METHODS.items() if r.rank_above_width}
    return Settings(
        base=a.base,
        task=a.task,
        methods=methods,
        train_size=a.train_size,
        steps=a.steps,
        warmup=min(Settings.warmup, a.steps // 10),
        rank=common[-1] if common else Settings.rank,
        ranks=wide | own,
        targets=Settings.targets if a.targets is None else a.targets,
        seeds=a.seeds,
    )


def _whole(name, text):
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name}: got {text!r}, wanted a whole number") from None


def compare(a) -> None:
    """Run the comparison, print the table, write results.json, figures, adapters and
    report.html.
    """
    from . import report as pages
    from .experiments import compare as experiment

    settings, lr = settings_of(a), _rates(a.lr)
    make_folder(a.out)
    print(pages.opening(settings))
    results = experiment.compare(
        settings, lr, a.out, lambda name, r: print(pages.progress_line(r), flush=True)
    )
    pages.write_all(results, a.out)
    print(pages.table(results))
    print(f"\nwritten to {a.out}: results.json, report.html, {', '.join(pages.FIGURES)}, adapters/")


def _rates(texts) -> dict[str, float]:
    """--lr METHOD=RATE, … as a dict."""
    from .experiments.compare import SCRATCH

    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in (*METHODS, SCRATCH):
            raise nearest("method", name, [*METHODS, SCRATCH])
        try:
            found[name] = float(value)
        except ValueError:
            raise ValueError(f"--lr: got {text!r}, wanted {name}=RATE") from None
    return found


def tune(a) -> None:
    """Run the sweep, each method's cells into the record as its last ends."""
    from .checkpoints import fingerprint
    from .experiments import rates
    from .experiments import tune as experiment
    from .formats.huggingface import load_model

    settings = settings_of(a)
    make_folder(a.out.parent)
    base = fingerprint(load_model(settings.base))
    done: dict[str, list] = {}

    def keep(cell):
        print(json.dumps(cell), flush=True)
        cells = done.setdefault(cell["method"], [])
        cells.append(cell)
        if len(cells) == len(experiment.GRID):
            rates.add(a.out, settings, base, cells)

    experiment.tune(settings, report=keep)
    for name, choice in rates.read(a.out)["chosen"][settings.task].items():
        print(f"{name:12} lr {choice['lr']:g}, rank {choice['rank']}")


def report(a) -> None:
    """Draw the figures and the page of a comparison again from its results.json."""
    from . import report as pages

    results = pages.read_results(a.folder)
    pages.write_all(results, a.folder)
    print(pages.table(results))


def pretrain(a) -> None:
    """Train the base and write its folder."""
    from .experiments import pretrain as experiment

    given = {k: v for k, v in (("steps", a.steps), ("seed", a.seed)) if v is not None}
    make_folder(a.out)
    record = experiment.pretrain(experiment.Recipe(**given), a.out)
    print(json.dumps(record, indent=1))


def train(a) -> None:
    """Fine-tune, score, write the adapter."""
    import minilora as ml

    from . import tasks

    model = ml.load_model(a.base)
    if model.tokenizer is None:
        raise ValueError(f"{a.base}: the model has no tokenizer.json, so text cannot be read")
    if a.task:
        data = tasks.load_task(a.task)
        pairs, held_out = data.train, data.test
    else:
        pairs, held_out = list(tasks.read_pairs(a.data)), []
    held_out = list(tasks.read_pairs(a.eval)) if a.eval else held_out
    if held_out:
        ml.batches(held_out, model.tokenizer, len(held_out))  # says now what it cannot read
    make_folder(a.out)
    given = {k: v for k in ("rank", "alpha", "targets") if (v := getattr(a, k)) is not None}
    tuned = ml.attach(model, a.method, seed=a.seed, **given, **_options(a.option))
    epochs = -(-a.steps * a.batch_size // len(pairs)) + 1
    batches = ml.batches(pairs, model.tokenizer, a.batch_size, a.seed, epochs)
    history = ml.train(
        tuned,
        batches,
        steps=a.steps,
        lr=_tuned_rate(a.method) if a.lr is None else a.lr,
        schedule=a.schedule,
        warmup=min(a.warmup, a.steps // 10),
        weight_decay=a.weight_decay,
        betas=(0.9, 0.98),
        clip=a.clip,
        checkpoint=a.checkpoint,
        checkpoint_every=a.checkpoint_every,
        resume=a.resume,
    )
    size = ml.save_adapter(tuned, a.out)
    numbers = sum(x.size for x in tuned.trainable.values())
    scaling = f", alpha {tuned.alpha:g}, s = {_scaling(tuned):g}" if tuned.alpha else ""
    rank = f", rank {tuned.rank}" if tuned.rank else ""
    what = f"{tuned.record.title}{rank}{scaling}"
    print(f"{what}: {numbers:,} trainable numbers on {len(pairs):,} pairs")
    print(
        f"loss {history.losses[0]:.4f} -> {history.losses[-1]:.4f} in {len(history.losses)} steps"
    )
    if held_out:
        score = ml.exact_match(tuned, held_out)
        print(f"exact match on {len(held_out):,} held-out pairs: {score:.3f}")
    print(f"adapter: {a.out} ({size:,} bytes)")


def _tuned_rate(method: str) -> float:
    """What `tune` chose for the method on the word lab: a start for other data."""
    from .experiments import rates

    chosen = rates.chosen_for(rates.DEFAULT_TASK, rates.read())
    return chosen[method]["lr"] if method in chosen else 1e-2


def _scaling(tuned):
    return next(iter(tuned.layers.values()))["s"]


def _options(texts):
    """NAME=VALUE as Python values: true, false, numbers."""
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option: got {text!r}, wanted NAME=VALUE")
        try:
            options[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            raise ValueError(f"--option: got {text!r}, wanted a number, true or false") from None
    return options


def generate(a) -> None:
    """Print the prompt's continuation."""
    import numpy as np

    import minilora as ml

    from . import tasks

    model = ml.load_model(a.base)
    if model.tokenizer is None:
        raise ValueError(f"{a.base}: the model has no tokenizer.json, so text cannot be read")
    if a.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens is {a.max_new_tokens}, wanted at least 1")
    speaker = ml.load_adapter(model, a.adapter) if a.adapter else model
    if a.task and a.task not in tasks.TASKS:
        raise nearest("task", a.task, tasks.TASKS)
    prompt = f"{tasks.TASKS[a.task].tag}{a.prompt}>" if a.task else a.prompt
    ids = np.array([model.tokenizer.encode(prompt)])
    out = speaker.generate(
        ids,
        a.max_new_tokens,
        temperature=a.temperature,
        top_p=a.top_p,
        seed=a.seed,
        stop=model.tokenizer.eos_id,
    )
    print(model.tokenizer.decode(out[0, ids.shape[1] :]).removesuffix("\n"))


def merge(a) -> None:
    """Write the merged model."""
    import minilora as ml

    tuned = ml.load_adapter(ml.load_model(a.base), a.adapter)
    merged = ml.merge(tuned)
    ml.save_model(merged, a.out)
    changed = [n for n, w in merged.params.items() if w is not tuned.base.params[n]]
    print(f"{tuned.record.title} merged into {len(changed)} arrays: {a.out}")


def gradcheck(a) -> None:
    """Print a line a pair; an error where one is wrong."""
    from . import checkup

    for line in checkup.gradients():
        print(line)


def doctor(a) -> None:
    """Print versions, threads, kernels and a check of each kernel against its twin."""
    from . import checkup

    for line in checkup.machine():
        print(line)


def count(a) -> None:
    """Print trainable numbers of one method, or of all."""
    from .count import count as count_one
    from .count import table as count_all

    model = _shape_or_config(a.shape)
    if a.method:
        given = {k: v for k in ("rank", "targets") if (v := getattr(a, k)) is not None}
        found = count_one(model, a.method, **given, **_options(a.option))
        print(json.dumps(found, indent=1) if a.json else f"{found['trainable']:,}")
        if not a.json and found["frozen_shared"]:
            print(f"and {found['frozen_shared']:,} frozen numbers that all layers share")
        return
    rows = count_all(model, a.rank, a.targets)
    if a.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'method':18} {'rank':>5} {'trainable':>16} {'shared, frozen':>15}")
    for name, found in rows.items():
        rank = found["rank"] or "–"
        title = METHODS[name].title
        print(f"{title:18} {rank:>5} {found['trainable']:>16,} {found['frozen_shared']:>15,}")


def _shape_or_config(name: str):
    """A published shape by name, or the config of a file, a folder or "base"."""
    from pathlib import Path

    from .files import data_folder
    from .formats.huggingface import read_config
    from .model import ModelConfig
    from .shapes import SHAPES

    path = data_folder() / "base" if name == "base" else Path(name)
    if name in SHAPES:
        shape = SHAPES[name]
        return ModelConfig(**shape.config_fields()) if shape.llama else shape
    if path.exists():
        return read_config(path / "config.json" if path.is_dir() else path)
    raise nearest("shape", name, [*SHAPES, "base", "a folder or config.json"])


def memory(a) -> None:
    """Print the bytes of a training step: of all methods, or of one, with what it saves."""
    from .memory import tables
    from .model import ModelConfig
    from .shapes import Shape

    model = _shape_or_config(a.model)
    config = ModelConfig(**model.config_fields()) if isinstance(model, Shape) else model  # says no
    given = {k: v for k in ("rank", "targets") if (v := getattr(a, k)) is not None}
    names = [a.method] if a.method else list(METHODS)
    settings = {n: {k: v for k, v in given.items() if k in tables.takes(n)} for n in names}
    if a.method:
        settings[a.method] = given | _options(a.option)
    if a.fit is not None:
        for line in tables.fitting(config, settings, a.fit, a.seq, a.mixed):
            print(line)
        return
    found = tables.ledgers(config, settings, a.batch, a.seq, a.mixed)
    measured = tables.measured(a.model, settings, a.batch, a.seq) if a.measure else {}
    if a.json:
        print(json.dumps(tables.as_json(found, measured), indent=1))
        return
    for line in tables.overview(found, measured):
        print(line)
    if a.method:
        for line in tables.saved(found[a.method]):
            print(line)
    if a.figure:
        tables.figure(config, settings, a.batch, a.figure, a.mixed)
        print(f"written to {a.figure}")
