#!/usr/bin/env python3
"""Opens pages of `mla-gen show --html` in a browser, uses them as a reader would, and takes pictures to be looked at.

    python3 tools/look.py OUT PAGE.html...

Wants Debian's `chromium` (or `CHROME=...`) and nothing else: it talks to the browser over a pipe. For each page and each of light, dark and
a phone's 390 pixels OUT gets a picture of every part. It fails where the page scrolls sideways, loads something, throws, cuts text off, puts
one box onto another, does not light up what a box reads, or has text of too little contrast.
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile

LOOKS = {
    "light": (1440, "light", False),
    "dark": (1440, "dark", False),
    "phone": (390, "light", True),
    "phone-dark": (320, "dark", True),
}


class Browser:
    """A headless browser, spoken to over its pipe."""

    def __init__(self):
        self.profile = tempfile.TemporaryDirectory()
        down, up = os.pipe(), os.pipe()

        def wire():
            # The browser reads from 3 and writes to 4
            os.dup2(down[0], 13)
            os.dup2(up[1], 14)
            os.dup2(13, 3)
            os.dup2(14, 4)

        command = [
            os.environ.get("CHROME", "chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={self.profile.name}", "about:blank",
        ]
        self.process = subprocess.Popen(
            command, preexec_fn=wire, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(down[0])
        os.close(up[1])
        self.out, self.into, self.rest, self.count = down[1], up[0], b"", 0
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = None
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Network", "Log"]:
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if getattr(self, "session", None):
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def read(self):
        while b"\0" not in self.rest:
            more = os.read(self.into, 1 << 20)
            if not more:
                raise RuntimeError("the browser is gone")
            self.rest += more
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def run(self, script):
        """What an expression of JavaScript is."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def open(self, path, width, scheme, is_phone):
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=is_phone)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.run("new Promise((done) => document.readyState === 'complete' ? done() : addEventListener('load', done))")

    def picture(self, file, x, y, width, height):
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        answer = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(answer["data"]))

    def key(self, name):
        for kind in ["keyDown", "keyUp"]:
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode={"Tab": 9, "ArrowDown": 40}[name])

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.profile.cleanup()


# What is wrong with a page's layout, as a list of sentences.
FAULTS = r"""(() => {
  const faults = [];
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) {
    const wide = [...document.querySelectorAll('body *')].filter((e) => !e.closest('.scroll, .table-box, .contents ul')
      && e.getBoundingClientRect().right > root.clientWidth + 1).slice(0, 3).map((e) => e.tagName + '.' + e.className);
    faults.push(`the page is ${root.scrollWidth} wide, the window ${root.clientWidth}: ${wide}`);
  }
  const drawn = matchMedia('(min-width: 47.51rem)').matches;
  const inside = (box, frame) => box.left >= frame.left - 1 && box.right <= frame.right + 1 && box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1;
  for (const graph of document.querySelectorAll('.graph')) {
    const rects = [...graph.querySelectorAll('.op')].map((e) => [e, e.getBoundingClientRect()]);
    rects.forEach(([one, a], i) => {
      if (one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 1)
        faults.push(`${one.id} cuts off its text: ${one.scrollWidth}x${one.scrollHeight} in ${one.clientWidth}x${one.clientHeight}`);
      for (const [other, b] of rects.slice(i + 1))
        if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1) faults.push(`${one.id} lies on ${other.id}`);
    });
    if (!drawn) continue;
    for (const card of graph.querySelectorAll('.card')) {
      const frame = card.getBoundingClientRect();
      for (const text of card.querySelectorAll('.title, .eyebrow span, .formula span, .frees .chip, .port, .op')) {
        const range = document.createRange();
        range.selectNodeContents(text);
        if (!inside(range.getBoundingClientRect(), frame)) faults.push(`a card is left by its text: ${text.textContent.trim().slice(0, 60)}`);
      }
      const port = card.querySelector('.port');
      const above = [...card.querySelectorAll(':scope > p, .frees')].pop();
      if (port && above && above.getBoundingClientRect().bottom > port.getBoundingClientRect().top + 1)
        faults.push(`a heading lies on a port: ${above.textContent.trim().slice(0, 60)}`);
    }
  }
  return faults;
})()"""

# Text of less contrast than WCAG's AA wants.
CONTRAST = r"""(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => { const f = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const found = new Map();
  for (const element of document.querySelectorAll('body *')) {
    if (![...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    if (!element.getClientRects().length || ['SCRIPT', 'STYLE'].includes(element.tagName)) continue;
    let back = element, ground = [0, 0, 0, 0];
    while (back && ground[3] < 255) { ground = rgba(getComputedStyle(back).backgroundColor); back = back.parentElement; }
    const style = getComputedStyle(element);
    const [a, b] = [light(rgba(style.color)), light(ground)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if (ratio < least) found.set(element.className + style.color, `${element.tagName}.${element.className}: ${ratio.toFixed(2)} for ${element.textContent.trim().slice(0, 30)}`);
  }
  return [...found.values()];
})()"""


def use(browser, faults):
    """Goes through a page as a reader does: theme, keyboard, pointer, a link."""
    browser.run("document.getElementById('theme-dark').click()")
    if browser.run("getComputedStyle(document.documentElement).colorScheme") != "dark":
        faults.append("the theme's switch changes nothing")
    browser.run("document.getElementById('theme-auto').click()")
    browser.run("document.querySelector('.graph .op').focus()")
    if not browser.run("document.querySelectorAll('.graph .lit').length"):
        faults.append("focus lights nothing up")
    first = browser.run("document.activeElement.id")
    browser.key("ArrowDown")
    if browser.run("document.activeElement.id") == first:
        faults.append("arrows do not move")
    place = browser.run("""(() => { const box = document.querySelector('.card.step .op'); box.scrollIntoView({ block: 'center', behavior: 'instant' });
        const r = box.getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]; })()""")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    if browser.run("document.querySelectorAll('.op.lit').length") < 2:
        faults.append("the pointer lights up no neighbour")
    browser.run("document.querySelector('a.op').click()")
    browser.run("new Promise((done) => setTimeout(done, 300))")
    if not browser.run("document.querySelector(':target')?.closest('details')?.open"):
        faults.append("a box's row is not shown when its link is followed")
    browser.run("document.querySelector('.top').scrollIntoView()")


def heard(browser, path, faults):
    """What the page asked for, and what it complained about."""
    for event in browser.events:
        params = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent" and params["request"]["url"].split("#")[0] != path.resolve().as_uri():
            faults.append(f"it loads {params['request']['url'][:100]}")
        if event.get("method") in ["Runtime.exceptionThrown", "Log.entryAdded"]:
            faults.append(f"the browser complains: {json.dumps(params)[:300]}")


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    browser, wrong = Browser(), 0
    try:
        for page in map(pathlib.Path, sys.argv[2:]):
            for look, (width, scheme, is_phone) in LOOKS.items():
                faults = []
                browser.open(page, width, scheme, is_phone)
                faults += browser.run(FAULTS) + browser.run(CONTRAST)
                parts = browser.run("""[...document.querySelectorAll('.top, main > section')].map((e) => { const r = e.getBoundingClientRect();
                    return [e.id || 'top', r.top + scrollY, r.height]; })""")
                for name, top, height in parts:
                    browser.picture(out / f"{page.stem}-{look}-{name}.png", 0, top, width, min(height + 20, 9000))
                if look == "light":
                    use(browser, faults)
                heard(browser, page, faults)
                for fault in faults:
                    print(f"{page} ({look}): {fault}")
                wrong += len(faults)
    finally:
        browser.close()
    print(f"{wrong} faults" if wrong else "nothing wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
