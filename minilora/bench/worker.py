"""A process that calls functions of the bench for another process.

It reads one line of JSON for each call, for example
["training", "losses", {"n": 3}], and answers with one line: {"answer": [5.1, 5.0, 4.9]}
or {"error": "ValueError: …"}.
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
            call = getattr(importlib.import_module(f"minilora.bench.{module}"), function)
            reply = {"answer": call(**arguments)}
        except Exception as error:  # the process that asked reports it
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
