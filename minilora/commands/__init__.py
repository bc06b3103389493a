"""The commands of `minilora …`: a module's `add` gives its commands their options.

A module is imported when one of its commands is run, so that `minilora --help` is quick.
"""

COMMANDS = {  # command -> (its module, what it does)
    "compare": ("comparison", "all methods on the same words: who learned what, at what cost"),
    "tune": ("comparison", "try learning rates, and choose by validation words"),
    "report": ("comparison", "redraw the figures and the page of a comparison"),
    "pretrain": ("comparison", "make the word lab's base from its words"),
    "sweep": ("sweep", "runs of the word lab, one for each combination of lists of settings"),
    "train": ("training", "fine-tune on a task or your own file; writes an adapter"),
    "step": ("step", "one training step, line by line, as a page for a browser"),
    "generate": ("text", "continue a prompt"),
    "merge": ("text", "write the base with the adapter's change added"),
    "ask": ("text", "one word, answered by the base and by every adapter on it"),
    "count": ("sizes", "trainable numbers, from shapes alone"),
    "memory": ("sizes", "bytes of a training step, predicted or measured"),
    "gradcheck": ("checks", "check every pair's backward against finite differences"),
    "new-method": ("checks", "write a correct technique into a new file, for you to change"),
    "doctor": ("checks", "versions and kernels here, and each twin against its page"),
    "bench": ("bench", "time kernels and a step of each technique, in a minute"),
}
