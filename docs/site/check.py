"""The site's checks in a browser: python docs/site/check.py [SCREENSHOTS], after build.py.

Fetches axe-core and playwright-core by npm into build/site/npm (once), asks the ledger for the
calculator's cases, and runs check.mjs in headless Chromium. Exits with 1 where a check fails, and
with 2 where node, npm or Chromium is missing.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cases

HERE = Path(__file__).resolve().parent
SITE = HERE.parent.parent / "build" / "site"
PACKAGES = "axe-core@4.14", "playwright-core@1.65"
BROWSERS = "chromium", "chromium-browser", "google-chrome", "chrome"
HOW = {
    "node": "apt-get install nodejs",
    "npm": "apt-get install npm",
    "Chromium": "apt-get install chromium, or set CHROMIUM to its path",
}


def chromium() -> str | None:
    """The path of a Chromium: the one that CHROMIUM names, or the first on the path."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in BROWSERS if (path := shutil.which(name))), None)


def missing() -> list[str]:
    """What is not there, and how to get it."""
    have = {"node": shutil.which("node"), "npm": shutil.which("npm"), "Chromium": chromium()}
    return [f"no {name}: {HOW[name]}" for name, path in have.items() if not path]


def packages() -> Path:
    """The folder that has the packages of npm."""
    folder = SITE / "npm"
    wanted = json.dumps(PACKAGES)
    stamp = folder / "installed.json"
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"fetching {' and '.join(PACKAGES)} by npm (once)")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}")
        npm = [shutil.which("npm") or "npm", "install", "--silent", "--no-audit", "--no-fund"]
        subprocess.run([*npm, *PACKAGES], cwd=folder, check=True)
        stamp.write_text(wanted)
    return folder


def main() -> int:
    """The command line above."""
    if told := missing():
        print("the site's pages were not checked in a browser", *told, sep="\n")
        return 2
    folder = packages()
    asked = SITE / "cases.json"
    asked.write_text(json.dumps(cases.browser_cases(200)), encoding="utf-8")
    shots = [str(Path(a).resolve()) for a in sys.argv[1:2]]
    command = ["node", str(HERE / "check.mjs"), str(SITE / "html"), str(asked), *shots]
    environment = {**os.environ, "CHROMIUM": chromium() or ""}
    return subprocess.run(command, cwd=folder, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
