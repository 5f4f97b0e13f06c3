"""A headless Chromium for tests of pages, driven through its debugging pipe; no package is needed.

    with Browser(folder) as browser:
        page = browser.open(path)
        page.click("#begin")
        assert page.value("document.title") == "Thank you"
"""

import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
               None)
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--no-first-run", "--remote-debugging-pipe", "--mute-audio", "--hide-scrollbars",
         "--disable-background-networking", "--disable-extensions",
         # these pages must need no network: nothing is found there
         "--host-resolver-rules=MAP * ~NOTFOUND")
# Chromium reads commands from 3 and answers on 4
PLACED = """import fcntl, os, sys
apart = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for place, end in enumerate(apart, 3):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39}
PATIENCE = 60.0


class Browser:
    """Context manager. `folder`: of the profile (what pages keep) and of downloads."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.downloads = self.folder / "downloads"

    def __enter__(self):
        self.downloads.mkdir(parents=True, exist_ok=True)
        hears, self._to = os.pipe()
        self._from, says = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", PLACED, str(hears), str(says), PROGRAM, *FLAGS,
             f"--user-data-dir={self.folder / 'profile'}", "about:blank"],
            pass_fds=(hears, says), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(hears)
        os.close(says)
        self._count, self._buffer, self.events = 0, b"", []
        self.call("Browser.setDownloadBehavior", behavior="allow",
                  downloadPath=str(self.downloads), eventsEnabled=True)
        return self

    def __exit__(self, *error):
        try:
            self.call("Browser.close")
        except (OSError, AssertionError):
            self._process.kill()
        self._process.wait(20)
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, session: str | None = None, **params) -> dict:
        """The answer to one command; events that come before it are kept in `events`."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict:
        while b"\0" not in self._buffer:
            assert select.select([self._from], [], [], PATIENCE)[0], "the browser does not answer"
            part = os.read(self._from, 1 << 16)
            assert part, "the browser has ended"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def open(self, path, width: int = 1200, height: int = 900, query: str = "") -> "Page":
        """A local file in a new tab, once it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        page.call("Page.enable")
        page.call("Runtime.enable")
        page.call("Log.enable")
        page.resize(width, height)
        page.call("Page.navigate", url=pathlib.Path(path).absolute().as_uri() + query)
        page.wait("document.readyState === 'complete' && location.protocol === 'file:'")
        return page


class Page:
    """One tab."""

    def __init__(self, browser, session, target):
        self.browser, self.session, self.target = browser, session, target

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)

    def resize(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)

    def value(self, script: str):
        """What an expression is, as JSON."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True,
                          awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in found, (script, found["exceptionDetails"])
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = PATIENCE):
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not (found := self.value(script)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)
        return found

    def text(self, selector: str = "body") -> str:
        """What is seen of an element."""
        return self.value(f"document.querySelector({json.dumps(selector)}).innerText")

    def click(self, selector: str):
        """By the mouse, in the middle of an element that is seen there."""
        x, y = self.value(f"""(() => {{
            const found = document.querySelector({json.dumps(selector)});
            found.scrollIntoView({{block: "center"}});
            const box = found.getBoundingClientRect();
            const x = box.x + box.width / 2, y = box.y + box.height / 2;
            const there = document.elementFromPoint(x, y);
            return found === there || found.contains(there) || there?.contains(found)
                ? [x, y] : [];
        }})()""") or (None, None)
        assert x is not None, f"nothing to click: {selector}"
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, *keys: str):
        """By the keyboard: names of KEYS, or characters."""
        for key in keys:
            code = KEYS.get(key, ord(key[0].upper()))
            text = "\r" if key == "Enter" else key if len(key) == 1 else ""
            self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", key=key,
                      text=text, windowsVirtualKeyCode=code)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def errors(self) -> list[str]:
        """What the page complained of so far: exceptions, and what it failed to load."""
        self.value("1")
        return [json.dumps(e["params"]) for e in self.browser.events
                if e.get("sessionId") == self.session
                and (e["method"] == "Runtime.exceptionThrown"
                     or e["method"] == "Log.entryAdded"
                     and e["params"]["entry"]["level"] == "error")]

    def screenshot(self, path, whole: bool = True):
        """PNG of the page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        pathlib.Path(path).write_bytes(base64.b64decode(found["data"]))

    def pdf(self) -> bytes:
        """As printed."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True,
                                          printBackground=True)["data"])
