#!/usr/bin/env python3
"""Drives the dashboard of `causeway demo` in headless Chromium: checks that it is alive, and takes the
pictures in docs/images.

    scripts/screenshots.py [--causeway target/debug/causeway] [--out docs/images] [--chromium chromium]

Exits with 0 if every check holds, and also, with a message, where Chromium or pgbench is missing.
Nothing but Python's standard library is needed: Chromium is spoken to over a pipe.
"""

import argparse, base64, json, os, re, select, shutil, signal, subprocess, sys, tempfile, time

URL = "postgresql://demo:demo@127.0.0.1:{}/demo"
# Reads that follow writes in the same session, and reads alone.
MIXED = """\\set id random(1, 20000)
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :id;
SELECT abalance FROM pgbench_accounts WHERE aid = :id;
SELECT abalance FROM pgbench_accounts WHERE aid = :id;
\\sleep 4 ms
"""
READS = """\\set id random(1, 100000)
SELECT abalance FROM pgbench_accounts WHERE aid = :id;
\\sleep 3 ms
"""


def wait_until(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise SystemExit(f"waited in vain until {what}")


class Browser:
    """One page, over Chromium's debugging pipe."""

    def __init__(self, program, profile):
        to_read, self.out = os.pipe()
        self.inn, to_write = os.pipe()

        def pipes():
            # Away from 3 and 4 first: a pipe may have been given just these.
            a, b = os.dup(to_read), os.dup(to_write)
            a, b = (os.dup(a), os.dup(b)) if {a, b} & {3, 4} else (a, b)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
             "--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read), os.close(to_write)
        self.buffer, self.number, self.session, self.complaints = b"", 0, None, []
        page = wait_until("a page is open", lambda: next(
            (t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"), None))
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            while b"\0" not in self.buffer:
                if not select.select([self.inn], [], [], 30)[0]:
                    raise SystemExit(f"Chromium does not answer {method}")
                part = os.read(self.inn, 1 << 20)
                if not part:
                    raise SystemExit("Chromium has ended")
                self.buffer += part
            line, self.buffer = self.buffer.split(b"\0", 1)
            answer = json.loads(line)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise SystemExit(f"{method}: {answer['error']}")
                return answer["result"]
            self.note(answer)
        raise SystemExit(f"no answer to {method}")

    def note(self, event):
        kind, about = event.get("method"), event.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(about["exceptionDetails"])[:500])
        elif kind == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(about["args"])[:500])
        elif kind == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.complaints.append(about["entry"]["text"] + " " + about["entry"].get("url", ""))

    def run(self, script):
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise SystemExit(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def look(self, width, height, dark, phone=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=2 if phone else 1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        time.sleep(1.2)

    def picture(self, path, whole=False):
        # A button that was pressed may have been scrolled to.
        self.call("Runtime.evaluate", expression="window.scrollTo(0, 0)")
        options = {"captureBeyondViewport": True} if whole else {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self.call("Page.captureScreenshot", format="png", **options)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))
        if shutil.which("pngquant"):
            subprocess.run(["pngquant", "--force", "--ext", ".png", "--skip-if-larger", path], check=False)
        print(f"  picture {path}, {os.path.getsize(path) // 1024} kB")


class Checks:
    failed = 0

    def that(self, what, held):
        print(f"  {'ok  ' if held else 'FAIL'} {what}")
        self.failed += not held


def demo(program, port, http):
    process = subprocess.Popen([program, "demo", "--port", str(port), "--http-port", str(http), "--log", "warn"],
                               stdout=subprocess.PIPE, stderr=sys.stderr, text=True, start_new_session=True)
    homes = {}
    for line in process.stdout:
        found = re.match(r"\s+(\S+)\s+port \d+\s+postmaster (\d+)", line)
        if found:
            # A postmaster works in its data directory.
            homes[found[1]] = os.readlink(f"/proc/{found[2]}/cwd")
        if "Ctrl-C" in line:
            return process, homes
    raise SystemExit("the demo did not start")


def load(port, script, clients, directory, name):
    path = os.path.join(directory, name)
    with open(path, "w") as file:
        file.write(script)
    command = ["pgbench", "-n", "-f", path, "-c", str(clients), "-T", "600", "-M", "prepared", "--max-tries=0", URL.format(port)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--causeway", default="target/debug/causeway")
    options.add_argument("--out", default="docs/images")
    options.add_argument("--chromium", default="chromium")
    options.add_argument("--port", type=int, default=16432)
    options.add_argument("--http-port", type=int, default=19432)
    options = options.parse_args()
    for program in (options.chromium, "pgbench", options.causeway):
        if not shutil.which(program):
            print(f"skipped: {program} is not there")
            return 0
    os.makedirs(options.out, exist_ok=True)
    checks, running = Checks(), []
    directory = tempfile.mkdtemp(prefix="causeway-pictures-")
    try:
        process, homes = demo(options.causeway, options.port, options.http_port)
        running.append((process, signal.SIGINT))
        url = f"http://127.0.0.1:{options.http_port}/"
        subprocess.run(["pgbench", "-i", "-q", URL.format(options.port)], check=True, stderr=subprocess.DEVNULL)
        browser = Browser(options.chromium, os.path.join(directory, "profile"))
        running.append((browser.process, signal.SIGTERM))
        browser.look(1360, 900, dark=False)
        browser.call("Page.navigate", url=url)
        text = lambda selector: browser.run(f"document.querySelector({selector!r})?.textContent ?? ''")
        wait_until("the page is live", lambda: text("#live") == "live")
        wait_until("all is well", lambda: text("#verdict-head") == "All is well")

        print("charts")
        before = browser.run("document.querySelector('.chart path')?.getAttribute('d') ?? ''")
        for script, clients, name in ((MIXED, 4, "mixed.sql"), (READS, 6, "reads.sql")):
            running.append((load(options.port, script, clients, directory, name), signal.SIGINT))
        wait_until("statements are shown", lambda: browser.run("document.querySelectorAll('.area').length") > 1)
        time.sleep(2)
        after = browser.run("document.querySelector('.chart path')?.getAttribute('d') ?? ''")
        checks.that("charts move under load", before != after)
        checks.that("nothing scrolls sideways", browser.run("document.documentElement.scrollWidth <= innerWidth"))
        browser.run("document.querySelector('[data-span=\"60\"]').click()")
        time.sleep(60)
        browser.picture(f"{options.out}/dashboard-light.png", whole=True)

        print("switchover by the button")
        old = browser.run("fetch('/api/status').then(r => r.json()).then(s => s.primary)")
        browser.run("document.querySelector('#switchover').click()")
        checks.that("it is confirmed first", browser.run("document.querySelector('#order').open"))
        browser.picture(f"{options.out}/dashboard-switchover.png")
        browser.run("document.querySelector('#order-go').click()")
        wait_until("the order is answered", lambda: browser.run(
            "/good|bad/.test(document.querySelector('#order-result').className)"))
        answer = text("#order-result")
        checks.that(f"switched over: {answer}", answer.startswith("Done."))
        browser.run("document.querySelector('#order-cancel').click()")
        wait_until("all is well again", lambda: text("#verdict-head") == "All is well")
        leader = lambda: browser.run("document.querySelector('#topology .primary .name')?.textContent ?? ''")
        checks.that(f"another leads in the picture: {leader()}", leader() not in ("", old))
        time.sleep(8)

        print("drain and undrain by the buttons")
        status = lambda: browser.run("fetch('/api/status').then(r => r.json())")
        standby = next(node["name"] for node in status()["nodes"] if node["role"] == "standby")
        drain = lambda: next(node["drain"] for node in status()["nodes"] if node["name"] == standby)
        button = f"document.querySelector('[data-drain={standby}]')"
        checks.that("the primary has no such button", browser.run(
            f"document.querySelector('[data-drain={leader()}]').hidden"))

        def press(script, title):
            browser.run(f"{script}.focus(); {script}.click()")
            checks.that("it is confirmed first", text("#order-title") == title and browser.run(
                "document.querySelector('#order').open && document.querySelector('#order-to-row').hidden"))
            browser.run("document.querySelector('#order-go').click()")
            wait_until("the order is answered", lambda: browser.run(
                "/good|bad/.test(document.querySelector('#order-result').className)"))
            answer = text("#order-result")
            browser.run("document.querySelector('#order-cancel').click()")
            return answer

        answer = press(button, f"Drain {standby}")
        checks.that(f"answered: {answer}", answer.startswith(f"{standby[0].upper()}{standby[1:]} is drain"))
        wait_until("it is drained", lambda: (drain() or {}).get("state") == "drained")
        wait_until("the table says so", lambda: browser.run(f"{button}.closest('tr').textContent").find("drained") > 0)
        wait_until("the button has changed", lambda: browser.run(f"{button}.textContent") == "Undrain…")
        wait_until("the picture says so", lambda: "DRAINED" in text("#topology"))
        checks.that("the button keeps the focus while the table is renewed", browser.run(
            f"{button}.focus(), new Promise(done => setTimeout(() => done(document.activeElement === {button}), 1500))"))
        answer = press(button, f"Undrain {standby}")
        checks.that(f"answered: {answer}", answer.endswith("takes reads."))
        checks.that("it is drained no longer", drain() is None)

        print("reload by the button")
        # The demo has no file that could be read again.
        answer = press("document.querySelector('#reload')", "Reload the configuration")
        checks.that(f"answered: {answer!r}", "nothing has changed" in answer and "cannot be read" in answer)
        browser.complaints = [one for one in browser.complaints if "/api/reload" not in one]

        print("a foreign page's order")
        answer = subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", "-H",
                                 "Origin: http://evil.example", f"{url}api/switchover"], capture_output=True, text=True)
        checks.that(f"is refused: {answer.stdout}", answer.stdout == "401")

        print("kill of the primary")
        victim = leader()
        browser.run("window.told = null; new MutationObserver(() => { if (!window.told && "
                    "[...document.querySelectorAll('#events li b')].some(b => b.textContent === 'primary failed')) window.told = Date.now(); })"
                    ".observe(document.querySelector('#events'), {childList: true})")
        pid = postmaster(homes[victim])
        killed = time.time() * 1000
        os.kill(pid, signal.SIGKILL)
        told = wait_until("the kill is shown", lambda: browser.run("window.told"))
        checks.that(f"shown as an event after {(told - killed) / 1000:.2f} s", told - killed < 2000)
        browser.look(1360, 900, dark=True)
        browser.picture(f"{options.out}/dashboard-failover-dark.png")
        wait_until("another leads", lambda: leader() not in ("", victim))
        checks.that(f"the roles have changed: {leader()} leads", True)
        wait_until("all is well after the kill", lambda: text("#verdict-head") == "All is well", 120)
        time.sleep(12)
        browser.picture(f"{options.out}/dashboard-dark.png", whole=True)

        print("phone")
        for dark in (False, True):
            browser.look(390, 1240, dark, phone=True)
            checks.that("nothing scrolls sideways", browser.run("document.documentElement.scrollWidth <= innerWidth"))
            browser.picture(f"{options.out}/dashboard-phone-{'dark' if dark else 'light'}.png")
        checks.that(f"no complaint on the console {browser.complaints}", not browser.complaints)
    finally:
        for process, how in reversed(running):
            process.send_signal(how)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(directory, ignore_errors=True)
    return 1 if checks.failed else 0


def postmaster(directory):
    """The present one: a server that was restarted has another than the demo printed."""
    with open(os.path.join(directory, "postmaster.pid")) as file:
        return int(file.readline())


if __name__ == "__main__":
    sys.exit(main())
