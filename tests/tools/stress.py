"""Many steps and shapes: does memory grow, does a twin touch other memory or leave its page?

    python tests/tools/stress.py                              # about ten minutes of a processor
    python tests/tools/stress.py --steps 2000 --shapes 300

The same as tests/fast/test_stress.py with MINILORA_TESTS=thorough, with a record of the results.
Any access to the memory beside an array would end the process. Linux only.
"""

import argparse
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (ROOT, *(ROOT / "tests" / room for room in ("", "formats", "fast", "tools")))
sys.path[:0] = map(str, ROOMS)

import records
import test_stress

from minilora import fast

ROUND = 100  # steps


def main() -> None:
    about = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    about.add_argument("--steps", type=int, default=50_000, help="of LoRA on a tiny model")
    about.add_argument("--shapes", type=int, default=20_000, help="of twins, in turn")
    about.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    about.add_argument("--record", type=Path, help="a JSON file for what was seen")
    asked = about.parse_args()
    sizes = test_stress.sizes_after(asked.steps // ROUND, ROUND)
    grown = max(sizes) - sizes[len(sizes) // 10]
    print(f"{asked.steps:,} steps: {grown:,} bytes more than after a tenth of them", flush=True)
    worst = test_stress.run_guarded(asked.shapes, asked.seed)
    print(f"seed {asked.seed}, {asked.shapes:,} shapes: off by {worst:.1e} at most")
    if asked.record:
        fields = {"seed": asked.seed, "kernels": fast.backend(), "steps": asked.steps}
        fields |= {"grown": grown, "twins": len(test_stress.WITH_TWIN), "shapes": asked.shapes}
        records.write(asked.record, {**fields, "off": worst})


if __name__ == "__main__":
    main()
