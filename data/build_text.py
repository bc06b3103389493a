"""Build data/text/: plain English, on which a study measures the loss of a language model.

    make text [ARGS=--check]                                           # does all of the following
    pip download --no-deps --no-binary brotli -d build/text-sources brotli==1.2.1
    python data/build_text.py --package build/text-sources/brotli-1.2.1.tar.gz [--check]

The package compresses this text in its tests and carries it for that. Of the proceedings of a
workshop the introduction is kept, from its first sentence to the last one before the proceedings
begin: a paragraph a line, with single spaces, and an empty line between two of them.
"""

import argparse
import hashlib
import json
import tarfile
from pathlib import Path

from build_categories import write

FOLDER = Path(__file__).resolve().parent / "text"
MEMBER = "brotli-1.2.1/tests/testdata/lcet10.txt"
SHA256 = "5314ba1dbb03f471df88bec6cd120a938ef60d0fd3511c5c1dce61bf7463245f"  # of this file
FIRST, AFTER = "The Workshop on Electronic Texts (1) drew together", "***   ***   ***"


def main() -> None:
    """Write the text, or compare it with the committed one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--package", type=Path, required=True, help="brotli's source, a .tar.gz")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it differs")
    a = parser.parse_args()
    text = paragraphs(member(a.package))
    write({"workshop.txt": text, "SOURCES.json": sources(text)}, FOLDER, a.check)
    print(f"{len(text.split()):,} words: {FOLDER}")


def member(package: Path) -> str:
    """The text in the package's archive. Raises ValueError if it is another one."""
    with tarfile.open(package) as archive:
        file = archive.extractfile(MEMBER)
        assert file
        data = file.read()
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise ValueError(f"{MEMBER}: its sha256 is {found}, wanted {SHA256}")
    return data.decode("ascii")


def paragraphs(text: str) -> str:
    """The introduction, a paragraph a line."""
    introduction = text[text.index(FIRST) :]
    introduction = introduction[: introduction.index(AFTER)].replace("\r\n", "\n")
    found = (" ".join(paragraph.split()) for paragraph in introduction.split("\n\n"))
    return "\n\n".join(paragraph for paragraph in found if paragraph) + "\n"


def sources(text: str) -> str:
    """SOURCES.json: the origin of the text, its words and its sha256."""
    record = {
        "sources": [
            {
                "name": "brotli",
                "version": "1.2.1",
                "file": MEMBER,
                "sha256": SHA256,
                "origin": "PyPI, the source archive; Library of Congress, Workshop on Electronic "
                "Texts, Proceedings, 1992",
                "licence": "public domain in the United States",
            }
        ],
        "words": len(text.split()),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    return json.dumps(record, indent=2) + "\n"


if __name__ == "__main__":
    main()
