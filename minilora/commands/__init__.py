"""What each command of `minilora …` takes and does; a module's `add` puts its own on the parser."""

from . import bench, checks, comparison, sizes, sweep, text, training, words

MODULES = (comparison, sweep, training, text, words, sizes, checks, bench)
