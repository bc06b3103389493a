"""A process that calls functions for another process.

It reads one line of JSON for each call, for example
["minilora.bench.machine", "peaks", {"threads": 1}], and answers with one line:
{"answer": {"flops": 1e11, "bandwidth": 2e10}} or {"error": "ValueError: …"}.
"""

import importlib
import json
import os
import sys


def main() -> None:
    """Answer until the input ends. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        module, function, arguments = json.loads(line)
        try:
            call = getattr(importlib.import_module(module), function)
            reply = {"answer": call(**arguments)}
        except Exception as error:  # the process that asked reports it
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
