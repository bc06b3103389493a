"""What each command of `minilora …` takes and does; a module's `add` puts its own on the parser."""

from . import bench, checks, comparison, experiments, sizes, text, words

MODULES = (comparison, experiments, text, words, sizes, checks, bench)
