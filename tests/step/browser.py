"""A headless Chromium that a test drives by real keys: the DevTools protocol over two pipes."""

import base64
import fcntl
import json
import os
import signal
import tempfile
from pathlib import Path

FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe".split()
CODES = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "ArrowUp": 38, "Tab": 9, "Enter": 13}
READY = """new Promise(done => (function wait() {
  document.body?.dataset.at ? done() : setTimeout(wait, 20) })())"""


class Browser:
    """One tab. `wrong` has its errors, its warnings, and the requests that leave the machine."""

    def __init__(self, chromium: str):
        self.folder = tempfile.TemporaryDirectory()
        down, self.orders = os.pipe()
        self.answers, up = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (down, up)]
        # Chromium reads its orders from file 3 and answers on file 4
        files = [(os.POSIX_SPAWN_DUP2, end, file) for end, file in zip(ends, (3, 4))]
        files += [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_WRONLY, 0) for n in (1, 2)]
        command = [chromium, *FLAGS, f"--user-data-dir={self.folder.name}"]
        self.process = os.posix_spawn(chromium, command, os.environ, file_actions=files)
        for end in (down, up, *ends):
            os.close(end)
        self.told, self.sent, self.session, self.wrong = b"", 0, None, []
        tab = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            self(f"{part}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.orders)
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.answers)
        self.folder.cleanup()

    def __call__(self, method: str, **params):
        """One order, and its answer; what Chromium tells meanwhile is noted."""
        self.order(method, params)
        while (told := self.read()).get("id") != self.sent:
            self.note(told)
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']['message']}")
        return told["result"]

    def order(self, method: str, params: dict) -> None:
        """One order, without waiting for its answer."""
        self.sent += 1
        order = {"id": self.sent, "method": method, "params": params}
        if self.session:
            order["sessionId"] = self.session
        os.write(self.orders, json.dumps(order).encode() + b"\0")

    def read(self) -> dict:
        """The next thing that Chromium tells. Raises EOFError where it has ended."""
        while b"\0" not in self.told:
            piece = os.read(self.answers, 1 << 20)
            if not piece:
                raise EOFError("Chromium has ended")
            self.told += piece
        text, self.told = self.told.split(b"\0", 1)
        return json.loads(text)

    def note(self, told: dict) -> None:
        """Keeps an error, a warning, or a request that leaves the machine."""
        kind, params = told.get("method"), told.get("params", {})
        calls = kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning")
        if kind in ("Runtime.exceptionThrown", "Log.entryAdded") or calls:
            self.wrong.append(json.dumps(params))
        if kind == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "blob:", "about:")):
                self.wrong.append(f"a request leaves the machine: {url}")

    def size(self, width: int, height: int, scheme="light") -> None:
        shape = dict(width=width, height=height, deviceScaleFactor=1, mobile=False)
        self("Emulation.setDeviceMetricsOverride", **shape)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self("Emulation.setEmulatedMedia", features=features)

    def open(self, path: Path, place: str = "") -> None:
        """A page of steps, at a place of it; waits until it is drawn."""
        self("Page.navigate", url="about:blank")
        self("Page.navigate", url=path.resolve().as_uri() + place)
        self.run(READY)

    def run(self, script: str):
        """The value of a script, awaited where it is a promise."""
        told = self("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"]["exception"]["description"])
        return told["result"].get("value")

    def press(self, key: str, times: int = 1) -> None:
        what = dict(key=key, windowsVirtualKeyCode=CODES.get(key, ord(key[0].upper())))
        if len(key) == 1:
            what["text"] = key
        for _ in range(times):
            self.order("Input.dispatchKeyEvent", {"type": "keyDown"} | what)
        self("Input.dispatchKeyEvent", type="keyUp", **what)

    def shot(self, path: Path, whole: bool = False) -> None:
        """A picture of what is seen, or of the whole page."""
        told = self("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(told["data"]))
