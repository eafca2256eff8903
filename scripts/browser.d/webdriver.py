"""Drives headless Chromium through chromedriver: the few commands of the WebDriver protocol that scripts/browser needs.

Chromium speaks to chromedriver and to the page's address only: what it would ask the network for by itself is off.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

PROGRAMS = ("chromium", "chromedriver")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update", "--disable-default-apps",
             "--disable-dev-shm-usage", "--hide-scrollbars", "--font-render-hinting=none"]
# Pictures look the same wherever they are taken: the fonts that come with Chromium.
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><include>/etc/fonts/fonts.conf</include>
<match><test name="family"><string>sans-serif</string></test><edit name="family" mode="prepend" binding="strong"><string>Liberation Sans</string></edit></match>
<match><test name="family"><string>sans</string></test><edit name="family" mode="prepend" binding="strong"><string>Liberation Sans</string></edit></match>
<match><test name="family"><string>system-ui</string></test><edit name="family" mode="prepend" binding="strong"><string>Liberation Sans</string></edit></match>
</fontconfig>"""
FIND = """
const found = document.evaluate(arguments[0], document, null, XPathResult.ORDERED_NODE_SNAPSHOT_TYPE);
for (let i = 0; i < found.snapshotLength; i++) if (found.snapshotItem(i).checkVisibility()) return found.snapshotItem(i);
return null;
"""
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One browser with one tab; a context manager."""

    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="rondo-browser-")
        fonts = os.path.join(self.profile, "fonts.conf")
        with open(fonts, "w") as file:
            file.write(FONTS)
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                       env={**os.environ, "FONTCONFIG_FILE": fonts})
        self.session = None
        try:
            # "ChromeDriver was started successfully on port 12345."
            line = next(line for line in self.driver.stdout if "started successfully on port" in line)
            self.url = "http://127.0.0.1:" + line.strip(" .\n").rsplit(" ", 1)[1]
            options = {"binary": shutil.which("chromium"), "args": [*ARGUMENTS, f"--user-data-dir={self.profile}"]}
            wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            answer = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self.session = f"/session/{answer['sessionId']}"
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.session:
            try:
                self.ask("DELETE", self.session)
            except (OSError, RuntimeError):
                pass
        self.driver.terminate()
        self.driver.wait(10)
        shutil.rmtree(self.profile, ignore_errors=True)

    def ask(self, method, path, body=None):
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"].split("\n")[0]) from None

    def open(self, url):
        self.ask("POST", self.session + "/url", {"url": url})

    def run(self, script, *arguments):
        """The value of a function's body, run in the page."""
        return self.ask("POST", self.session + "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, xpath):
        """The first element that is shown, or None."""
        return self.run(FIND, xpath)

    def wait(self, what, look, seconds=5.0):
        """Waits until `look` gives something, and gives that and how long it took."""
        began = time.monotonic()
        while True:
            found = look()
            took = time.monotonic() - began
            if found:
                return found, took
            if took > seconds:
                raise AssertionError(f"not within {seconds:g} s: {what}")
            time.sleep(0.05)

    def element(self, xpath, seconds=5.0):
        return self.wait(xpath, lambda: self.find(xpath), seconds)[0]

    def with_element(self, xpath, act, seconds=5.0):
        """Does something with an element, and once more when a live page has replaced it meanwhile."""
        for last in (False, False, True):
            try:
                return act(self.element(xpath, seconds))
            except RuntimeError as error:
                if last or "stale element" not in str(error):
                    raise

    def click(self, xpath, seconds=5.0):
        def act(element):
            self.run("arguments[0].scrollIntoView({block: 'center'})", element)
            self.ask("POST", f"{self.session}/element/{element[ELEMENT]}/click")

        self.with_element(xpath, act, seconds)

    def type(self, xpath, text):
        def act(element):
            self.ask("POST", f"{self.session}/element/{element[ELEMENT]}/clear")
            self.ask("POST", f"{self.session}/element/{element[ELEMENT]}/value", {"text": text})

        self.with_element(xpath, act)

    def text(self, xpath):
        return self.with_element(xpath, lambda element: self.run("return arguments[0].innerText", element))

    def devtools(self, command, **parameters):
        return self.ask("POST", self.session + "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def look(self, width=1280, height=900, dark=False, scale=1, phone=False):
        """The size and the colours that the page is shown with."""
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)
        scheme = "dark" if dark else "light"
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def without_scripts(self, off=True):
        self.devtools("Emulation.setScriptExecutionDisabled", value=off)

    def picture(self, path, whole=False):
        options = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self.devtools("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.devtools("Page.captureScreenshot", **options)["data"]))

    def complaints(self):
        """Errors and warnings on the console since the last call, but for answers of 400 and above, which are meant."""
        log = self.ask("POST", self.session + "/se/log", {"type": "browser"})
        return list({entry["message"] for entry in log if entry["level"] in ("WARNING", "SEVERE") and entry["source"] != "network"})
