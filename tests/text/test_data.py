"""The tables in data/words/, the tokenizer, the tasks, the files: what a run's numbers rest on."""

import hashlib
import importlib.util
import json
import os
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.support import files
from minilora.support.files import data_folder, nearest, write_atomically
from minilora.text import tasks
from minilora.text.batches import all_once, batches
from minilora.text.pairs import read_pairs
from minilora.text.score import exact_match
from minilora.text.tasks import RULES, TASKS, load_task, select
from minilora.text.tokenizer import PAD, WORD_LAB, CharTokenizer

WORDS = data_folder() / "words"
SOURCES = json.loads((WORDS / "SOURCES.json").read_text(encoding="utf-8"))
ABOUT_LEMMAS = ("lemma", "spelling")  # the answers are the lemmas; elsewhere the prompt is


def rows(name):
    """[(prompt, answers, split)] straight from the file."""
    lines = (WORDS / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "prompt\tanswers\tsplit"
    cells = [line.split("\t") for line in lines[1:]]
    return [(prompt, tuple(answers.split("/")), split) for prompt, answers, split in cells]


TABLES = {name: rows(name) for name in TASKS}


def md5(word):
    return hashlib.md5(word.encode()).hexdigest()


def held_out(words):
    return [word for word in words if int(md5(word), 16) % 10 == 0]


def lemmas(name, row):
    return row[1] if name in ABOUT_LEMMAS else row[:1]


def builder():
    """data/build_words.py as a module."""
    path = data_folder() / "build_words.py"
    spec = importlib.util.spec_from_file_location("build_words", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------- tables


@pytest.mark.smoke
def test_the_tasks_are_the_tables():
    assert set(TASKS) == set(SOURCES["tables"]) == {path.stem for path in WORDS.glob("*.tsv")}
    assert len({task.tag for task in TASKS.values()}) == len(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_counts_and_sums_are_those_recorded(name):
    record = SOURCES["tables"][name]
    assert hashlib.sha256((WORDS / f"{name}.tsv").read_bytes()).hexdigest() == record["sha256"]
    counts = Counter(split for _, _, split in TABLES[name])
    assert counts == {"train": record["train"], "test": record["test"]}
    data = load_task(name)
    assert (len(data.train), len(data.test)) == (record["train"], record["test"])


@pytest.mark.parametrize("name", TASKS)
def test_the_readme_prints_the_counts(name):
    record = SOURCES["tables"][name]
    readme = (data_folder() / "README.md").read_text(encoding="utf-8")
    line = next(line for line in readme.splitlines() if line.startswith(f"| `{name}.tsv`"))
    assert f"| {record['train']:,} | {record['test']:,} |" in line


@pytest.mark.parametrize("name", TASKS)
def test_split_and_order_are_by_the_md5_of_the_lemma(name):
    keys = []
    for row in TABLES[name]:
        words = lemmas(name, row)
        assert row[2] == ("test" if held_out(words) else "train"), row
        keys.append((min(map(md5, held_out(words) or words)), row[0]))
    assert keys == sorted(keys)
    assert len({prompt for prompt, _, _ in TABLES[name]}) == len(keys)


@pytest.mark.parametrize("name", TASKS)
def test_words_are_plain_and_short(name):
    longest = 12 if name in ("phonemes", "spelling") else 14
    for prompt, answers, _ in TABLES[name]:
        words = {"spelling": answers, "phonemes": [prompt]}.get(name, [prompt, *answers])
        assert all(w.isascii() and w.isalpha() and w.islower() for w in words)
        assert all(2 <= len(word) <= longest for word in words)
        assert answers[0] and len(set(answers)) == len(answers)


def test_no_test_verb_of_the_past_tense_was_seen_in_another_spelling():
    """neutralize was tested, and the base had been trained on neutralise: 44 such verbs."""
    build = builder()
    same = build.one_spelling
    assert same("neutralise") == same("neutralize") and same("belabour") == same("belabor")
    assert same("calliper") == same("caliper") and same("analyse") == same("analyze")
    assert same("rise") != same("ride")
    seen = {same(r[0]) for name in build.SEEN_VERBS for r in TABLES[name] if r[2] == "train"}
    tested = [prompt for prompt, _, split in TABLES["past"] if split == "test"]
    assert len(tested) == 611 and not [verb for verb in tested if same(verb) in seen]


def test_nothing_held_out_stands_in_training():
    trained = {
        text
        for table in TABLES.values()
        for prompt, answers, split in table
        if split == "train"
        for text in (prompt, *answers)
    }
    prompts = {p for table in TABLES.values() for p, _, split in table if split == "test"}
    forms = {
        form
        for name in ("third", "ing", "past", "plural", "comparative")
        for _, answers, split in TABLES[name]
        if split == "test"
        for form in answers
    }
    assert trained & prompts == set()
    assert trained & forms == set()


def test_no_training_word_sounds_like_a_held_out_one():
    heard = {"train": set(), "test": set()}
    for _, answers, split in TABLES["phonemes"]:
        heard[split].update(answers)
    for prompt, _, split in TABLES["spelling"]:
        heard[split].add(prompt)
    assert heard["train"] & heard["test"] == set()


# ---------------------------------------------------------------------------------------- tokenizer


@pytest.mark.smoke
def test_the_word_lab_spells_every_task():
    assert WORD_LAB.vocab_size == 55
    assert (WORD_LAB.pad_id, WORD_LAB.eos_id) == (0, 1)
    characters = {c for table in TABLES.values() for row in table for text in row[1] for c in text}
    characters |= {c for table in TABLES.values() for row in table for c in row[0]}
    expected = {PAD, "\n", ">", *characters, *(task.tag for task in TASKS.values())}
    assert set(WORD_LAB.tokens) == expected
    assert set(builder().PHONES.values()) < expected


@given(st.text(st.sampled_from(WORD_LAB.tokens[1:])))
def test_decode_undoes_encode(text):
    ids = WORD_LAB.encode(text)
    assert len(ids) == len(text)
    assert WORD_LAB.decode([*ids, WORD_LAB.pad_id]) == text


@given(st.text(min_size=1))
def test_any_characters_make_a_tokenizer(text):
    tokenizer = CharTokenizer.from_characters(text)
    assert tokenizer.decode(tokenizer.encode(text + "\n")) == text + "\n"


def test_unknown_characters_are_all_named():
    with pytest.raises(ValueError, match=r"no token for '!', 'X'$"):
        WORD_LAB.encode("XaX!")
    with pytest.raises(ValueError, match="id 55, wanted 0 to 54"):
        WORD_LAB.decode([55])
    with pytest.raises(ValueError, match="id -1"):
        WORD_LAB.decode([-1])


def test_the_tokenizers_library_reads_the_file_alike(tmp_path):
    from tokenizers import Tokenizer

    for name, data in WORD_LAB.files().items():
        (tmp_path / name).write_bytes(data)
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "Dwalk>walked\n\nWwɔk>walk\n" + "".join(WORD_LAB.tokens[1:])
    ids = WORD_LAB.encode(text)
    assert theirs.encode(text).ids == ids
    assert theirs.decode([*ids, 0, 0]) == text == WORD_LAB.decode([*ids, 0, 0])
    assert theirs.get_vocab_size() == WORD_LAB.vocab_size


def test_its_files_are_read_back(tmp_path):
    for name, data in WORD_LAB.files().items():
        (tmp_path / name).write_bytes(data)
    assert CharTokenizer.load(tmp_path) == WORD_LAB
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    with pytest.raises(ValueError, match=r"tokenizer\.json: model BPE, wanted WordLevel"):
        CharTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(
        '{"model": {"type": "WordLevel", "vocab": {"<pad>": 0, "\\n": 2}}}'
    )
    with pytest.raises(ValueError, match="ids are not 0 to 1"):
        CharTokenizer.load(tmp_path)


# -------------------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_example_is_a_row(task):
    prompt, answer = task.example.split(">")
    assert any(p == prompt + ">" and answer in a for part in load_task(task.name) for p, a in part)
    assert set(task.rules) <= set(RULES)


def test_select_takes_the_first_then_the_next_600():
    data = load_task("past")
    train, validation, test = select("past", 300)
    assert (train, validation) == (data.train[:300], data.train[300:900])
    assert len(select("past", 10).validation) == 600
    assert test == data.test
    assert len(select(data, 5700).validation) == len(data.train) - 5700 == 34
    with pytest.raises(ValueError, match="train_size 5734, wanted 1 to 5733"):
        select("past", 5734)


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown task 'pastt'; did you mean 'past'\? \(past, pl"):
        load_task("pastt")
    assert str(nearest("colour", "xyz", ["red"])) == "unknown colour 'xyz'; wanted one of: red"


@pytest.mark.parametrize(
    "name, rule, score",
    [("past", "rule_ed", 0.529), ("past", "rule_four", 0.948), ("plural", "rule_s", 0.858)],
)
def test_rules_score_what_the_pages_say(name, rule, score):
    assert round(tasks.score_rule(RULES[rule], load_task(name).test), 3) == score


# ------------------------------------------------------------------------------------------ batches


PAIRS = [("Da>", "b"), ("Dab>", ("abc", "x")), ("Dabcd>", "abcde"), ("Nz>", "zs"), ("Ny>", "ies")]


def test_targets_are_the_next_ids_of_the_completion_only():
    [(ids, targets)] = batches([("Dab>", ("cd", "x")), ("Da>", "b")], WORD_LAB, 2)
    assert ids.dtype == targets.dtype == np.int64
    long = 0 if ids[0, 2] == WORD_LAB.encode("b")[0] else 1
    text = WORD_LAB.encode("Dab>cd\n")
    assert ids[long].tolist() == text[:-1]
    assert targets[long].tolist() == [-100] * 3 + text[4:]
    text = WORD_LAB.encode("Da>b\n")
    assert ids[1 - long].tolist() == [*text[:-1], 0, 0]
    assert targets[1 - long].tolist() == [-100, -100, *text[3:], -100, -100]


@given(
    st.lists(st.tuples(st.text("abc", min_size=1), st.text("xyz", min_size=1)), min_size=1),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_every_pair_is_seen_in_every_epoch(pairs, batch_size, epochs):
    got = batches(pairs, WORD_LAB, batch_size, seed=3, epochs=epochs)
    size = min(batch_size, len(pairs))
    assert len(got) == -(-epochs * len(pairs) // size)
    texts = []
    for ids, targets in got:
        assert ids.shape == targets.shape and len(ids) == size
        assert ((targets == -100) | (targets > 0)).all()
        same = targets[:, :-1] != -100
        assert (targets[:, :-1] == ids[:, 1:])[same & (ids[:, 1:] != 0)].all()
        texts += [WORD_LAB.decode(row) for row in ids]
    for epoch in range(epochs):
        part = texts[epoch * len(pairs) : (epoch + 1) * len(pairs)]
        assert Counter(part) == Counter(prompt + completion for prompt, completion in pairs)


@given(st.integers(1, 5), st.integers(2, 9), st.integers(0, 3))
def test_batches_by_length_hold_the_same_rows_with_less_padding(batch_size, by_length, seed):
    pairs = [("D" + "a" * n + ">", "x") for n in range(1, 12)]
    alike = batches(pairs, WORD_LAB, batch_size, seed, epochs=3, by_length=by_length)
    plain = batches(pairs, WORD_LAB, batch_size, seed, epochs=30)[: len(alike)]
    assert len(alike) % by_length == 0 and len(alike) * min(batch_size, 11) >= 3 * 11
    for k in range(0, len(alike), by_length):
        rows = [
            sorted(WORD_LAB.decode(row) for ids, _ in part[k : k + by_length] for row in ids)
            for part in (plain, alike)
        ]
        assert rows[0] == rows[1]
    assert sum(ids.size for ids, _ in alike) <= sum(ids.size for ids, _ in plain)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 4))
def test_more_epochs_only_add_batches(batch_size, by_length, epochs, more):
    few, many = (
        batches(PAIRS, WORD_LAB, batch_size, 3, epochs=n, by_length=by_length)
        for n in (epochs, epochs + more)
    )
    assert len(few) <= len(many)
    assert all(np.array_equal(a, b) for x, y in zip(few, many) for a, b in zip(x, y))


def test_all_once():
    got = all_once(PAIRS, WORD_LAB, 2)
    assert [len(ids) for ids, _ in got] == [2, 2, 1]
    texts = Counter(WORD_LAB.decode(row) for ids, _ in got for row in ids)
    assert texts == Counter(["Da>b", "Dab>abc", "Dabcd>abcde", "Nz>zs", "Ny>ies"])
    assert sum(ids.size for ids, _ in got) < sum(ids.size for ids, _ in batches(PAIRS, WORD_LAB, 5))


def test_bad_pairs_are_refused():
    with pytest.raises(ValueError, match="0 pairs"):
        batches([], WORD_LAB, 2)
    with pytest.raises(ValueError, match="batch_size 0"):
        batches(PAIRS, WORD_LAB, 0)
    for pair in (("", "a"), ("Da>", "b\nc")):
        with pytest.raises(ValueError, match="wanted a prompt, and no end token"):
            batches([pair], WORD_LAB, 1)
    with pytest.raises(
        ValueError, match=r"^batches: \('Da>', 'bÉ'\): tokenizer: no token for 'É'$"
    ):
        batches([("Da>", "bÉ")], WORD_LAB, 1)
    with pytest.raises(ValueError, match="the model has no tokenizer"):
        batches(PAIRS, None, 2)


# -------------------------------------------------------------------------------------- exact match


class Parrot:
    """Answers from a list, as a model would: ids in, prompt and new ids out."""

    def __init__(self, answers):
        self.tokenizer = WORD_LAB
        self.answers = answers
        self.calls = []

    def generate(self, ids, max_new_tokens, stop):
        assert stop == WORD_LAB.eos_id
        new = [WORD_LAB.encode(self.answers[WORD_LAB.decode(row)])[:max_new_tokens] for row in ids]
        self.calls.append(max_new_tokens)
        return [[*old, *row] for old, row in zip(ids, new)]


def test_exact_match_counts_any_right_completion():
    model = Parrot({"Da>": "b\n", "Dab>": "x\n", "Dabcd>": "abc\n", "Nz>": "zsz\n", "Ny>": "ies\n"})
    assert exact_match(model, PAIRS) == 3 / 5
    tuned = SimpleNamespace(base=SimpleNamespace(tokenizer=WORD_LAB), generate=model.generate)
    score, answers = exact_match(tuned, PAIRS, batch_size=2, return_answers=True)
    assert (score, answers) == (3 / 5, ["b", "x", "abc", "zsz", "ies"])
    assert set(model.calls) == {6}  # abcde and its end


def test_an_answer_without_an_end_is_wrong():
    assert exact_match(Parrot({"Da>": "bbbbbbbb"}), [("Da>", ("b", "bb"))]) == 0.0
    with pytest.raises(ValueError, match="no pairs"):
        exact_match(Parrot({}), [])
    with pytest.raises(ValueError, match="no tokenizer"):
        exact_match(SimpleNamespace(tokenizer=None), PAIRS)


# ------------------------------------------------------------------------------------ a user's file


def test_read_pairs_reads_both_kinds(tmp_path):
    """A byte order mark, CRLF, blank lines, other columns: as spreadsheets and editors save."""
    expected = [("a,b", 'say "x"'), ("c\u2028", "two\nlines")]
    lines = [json.dumps({"prompt": p, "completion": c, "id": 1}) for p, c in expected]
    (tmp_path / "pairs.jsonl").write_text("\ufeff" + "\n\n".join(lines) + "\n", encoding="utf-8")
    assert read_pairs(tmp_path / "pairs.jsonl") == expected
    (tmp_path / "pairs.CSV").write_text(
        '\ufeff\r\nid,completion,prompt,\r\n\r\n1,"say ""x""","a,b"\r\n'
        ' , \r\n2,"two\nlines",c\u2028\r\n',
        encoding="utf-8",
    )
    assert read_pairs(tmp_path / "pairs.CSV") == expected


GOOD = '{"prompt": "a", "completion": "b"}\n'


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("p.jsonl", GOOD + "{oops\n", "line 2: not JSON"),
        ("p.jsonl", GOOD + "\n[1]\n", r"line 3: wanted an object, got \[1\]"),
        ("p.jsonl", GOOD + '{"prompt": "a"}', "line 2: its names are prompt, wanted prompt, compl"),
        ("p.jsonl", '{"prompt": "a", "completion": ""}', "no pairs in it; line 1 is empty"),
        ("p.jsonl", '{"prompt": "a", "completion": 3}', "line 1: completion is 3, wanted some"),
        ("p.jsonl", "", "no pairs in it"),
        ("p.csv", "\n\nprompt;completion\na;b\n", "line 2: its names are prompt;completion"),
        ("p.csv", "\n \n", "no pairs in it"),
        ("p.jsonl", json.dumps({"prompt": [0] * 999, "completion": "b"}), "line 1: prompt is"),
        ("p.csv", GOOD.encode("utf-16"), "line 1: not UTF-8"),
        ("p.csv", "prompt,completion\na,b,c\n", "line 2: more cells than columns"),
        ("p.csv", 'prompt,completion\na,"b', "line 2: not CSV"),
        ("p.txt", GOOD, r"suffix '.txt', wanted .jsonl, .json, .csv"),
        ("p.json", f"[{GOOD}, 3]", "record 2: wanted an object, got 3"),
        ("p.json", GOOD + "3", "line 2: wanted an object, got 3"),
    ],
)
def test_bad_files_name_the_line(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        read_pairs(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 300 + len(str(tmp_path))


# -------------------------------------------------------------------------------------------- files


def test_data_folder_finds_the_wheels_copy_and_says_when_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "minilora")
    with pytest.raises(FileNotFoundError, match=r"^data: no words/ in "):
        data_folder()
    (tmp_path / "minilora/_data/words").mkdir(parents=True)
    assert data_folder() == tmp_path / "minilora/_data"


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, function, error):
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")

    def fail(*args):
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
