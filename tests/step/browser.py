"""A headless Chromium that a test drives by real keys: the DevTools protocol over two pipes."""

import base64
import json
import os
import subprocess
import tempfile
from pathlib import Path

FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe".split()
CODES = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "ArrowUp": 38, "Tab": 9, "Enter": 13}


class Browser:
    """One tab, and what went wrong in it: errors of scripts, requests that leave the machine."""

    def __init__(self, chromium: str, width=1280, height=900):
        self.folder = tempfile.TemporaryDirectory()
        down, self.send_to = os.pipe()
        self.read_from, up = os.pipe()
        os.set_inheritable(down, True), os.set_inheritable(up, True)
        # Chromium reads its orders from file 3 and answers on file 4
        shell = f'exec 3<&{down} 4>&{up}; exec "$0" "$@"'
        profile = f"--user-data-dir={self.folder.name}"
        command = ["sh", "-c", shell, chromium, *FLAGS, profile, f"--window-size={width},{height}"]
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(command, pass_fds=(down, up), stdout=null, stderr=null)
        os.close(down), os.close(up)
        self.answers, self.number, self.session, self.wrong = (
            open(self.read_from, "rb"),
            0,
            None,
            [],
        )
        self.rest = b""
        tab = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            self(f"{part}.enable")
        self.size(width, height)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.send_to)
        self.process.kill()
        self.process.wait()
        self.answers.close()
        self.folder.cleanup()

    def __call__(self, method: str, **params):
        """One order, and its answer; what Chromium tells meanwhile is noted."""
        self.number += 1
        order = {"id": self.number, "method": method, "params": params}
        if self.session:
            order["sessionId"] = self.session
        os.write(self.send_to, json.dumps(order).encode() + b"\0")
        while True:
            told = self.read()
            if told.get("id") == self.number:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']['message']}")
                return told["result"]
            self.note(told)

    def read(self) -> dict:
        while b"\0" not in self.rest:
            piece = os.read(self.read_from, 1 << 20)
            if not piece:
                raise RuntimeError("Chromium has ended")
            self.rest += piece
        text, self.rest = self.rest.split(b"\0", 1)
        return json.loads(text)

    def note(self, told: dict) -> None:
        kind, params = told.get("method"), told.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.wrong.append(params["exceptionDetails"].get("exception", {}).get("description"))
        elif kind == "Log.entryAdded" or (
            kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning")
        ):
            self.wrong.append(json.dumps(params))
        elif kind == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "blob:", "about:")):
                self.wrong.append(f"a request leaves the machine: {url}")

    def size(self, width: int, height: int, dark=False) -> None:
        shape = dict(width=width, height=height, deviceScaleFactor=1, mobile=False)
        self("Emulation.setDeviceMetricsOverride", **shape)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path: Path, place="") -> None:
        self("Page.navigate", url="about:blank")
        self("Page.navigate", url=path.resolve().as_uri() + place)
        self.run(
            "new Promise(done => (function wait() {"
            "document.body?.dataset.at ? done() : setTimeout(wait, 20) })())"
        )

    def run(self, script: str):
        """The value of a script, awaited where it is a promise."""
        told = self("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"]["exception"]["description"])
        return told["result"].get("value")

    def press(self, key: str) -> None:
        code = CODES.get(key, ord(key[0].upper()))
        what = dict(key=key, windowsVirtualKeyCode=code)
        if len(key) == 1:
            what["text"] = key
        self("Input.dispatchKeyEvent", type="keyDown", **what)
        self("Input.dispatchKeyEvent", type="keyUp", **what)

    def shot(self, path: Path, full=False) -> None:
        told = self("Page.captureScreenshot", captureBeyondViewport=full)
        Path(path).write_bytes(base64.b64decode(told["data"]))
