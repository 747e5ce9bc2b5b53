"""Drives the status page in headless Chromium and says, row by row, what was seen."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By

ROOT = Path(__file__).resolve().parent.parent.parent
SHOTS = ROOT / "board/observe"
PATIENCE_S = 40


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def config(port):
    return f"""device = "kiosk-3"
[model]
bundle = "{ROOT}/models/default.gguf"
backend = "cpu"
reason = "on-change"
[privacy]
purpose = "research"
[clip]
path = "{ROOT}/models/demo/demo.avi"
paced = true
[policy]
enter = 0.35
exit = 0.25
dwell_ms = 1000
[sink.page]
listen = "127.0.0.1:{port}"
"""


def browser(width, height, dark):
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
    return driver


class Table:
    def __init__(self):
        self.failed = 0

    def row(self, what, holds, seen):
        self.failed += not holds
        print(f"{'ok  ' if holds else 'FAIL'}  {what:58} {seen}", flush=True)


def until(read, wanted):
    deadline = time.monotonic() + PATIENCE_S
    while not wanted(seen := read()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return seen


def asked(driver, port):
    """Addresses that the page asked for, beside its own."""
    own = (f"http://127.0.0.1:{port}/", "data:")
    sent = [json.loads(line["message"])["message"] for line in driver.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    return sorted({url for url in urls if not url.startswith(own)})


def drive(mien, port, folder, table):
    (folder / "site.toml").write_text(config(port))
    with open(folder / "log", "w", encoding="utf-8") as log:
        daemon = subprocess.Popen([mien, "run", folder / "site.toml"], stdout=subprocess.DEVNULL, stderr=log)
    drivers = []
    try:
        until(lambda: (folder / "log").read_text(), lambda text: "status page" in text)
        desk = browser(1120, 1400, False)
        drivers.append(desk)
        desk.get(f"http://127.0.0.1:{port}/")
        text = lambda driver, name: driver.find_element(By.ID, name).text
        width = lambda: desk.find_element(By.ID, "fill2").value_of_css_property("width")
        link = until(lambda: text(desk, "link"), lambda words: words == "live")
        table.row("the page is live", link == "live", link)
        now = until(lambda: text(desk, "now"), lambda words: "%" in words)
        table.row("a label holds, with its score", "%" in now, now)
        first = width()
        moved = until(width, lambda value: value != first)
        table.row("a bar moves", moved != first, f"{first} -> {moved}")
        find = "return [...document.querySelectorAll('#run tr')].find(row => row.cells[0].textContent === 'windows')?.cells[1].textContent"
        windows = lambda: int(desk.execute_script(find) or 0)
        before = until(windows, lambda count: count > 0)
        after = until(windows, lambda count: count > before)
        table.row("windows are counted", after > before, f"{before} -> {after}")
        reason = until(lambda: text(desk, "reason"), lambda words: words.startswith("I see"))
        table.row("the reason is shown", reason.startswith("I see"), reason[:60])
        marks = len(desk.find_elements(By.CSS_SELECTOR, "#reason mark"))
        table.row("with its claims marked", marks >= 3, f"{marks} claims")
        stages = [row.text for row in desk.find_elements(By.CSS_SELECTOR, "#stages tr")]
        table.row("each stage of the model beside its budget", len(stages) > 5 and stages[-1].startswith("together"), stages[-1] if stages else "")
        lines = until(lambda: len(desk.find_elements(By.CSS_SELECTOR, "#timeline path")), lambda count: count == 7)
        table.row("the timeline has a line for each label", lines == 7, lines)
        bars = until(lambda: len(desk.find_elements(By.CSS_SELECTOR, "#timeline rect")), lambda count: count >= 2)
        table.row("and bars for episodes", bars >= 2, bars)
        desk.save_screenshot(str(SHOTS / "page-light.png"))

        phone = browser(390, 844, True)
        drivers.append(phone)
        phone.get(f"http://127.0.0.1:{port}/")
        until(lambda: text(phone, "link"), lambda words: words == "live")
        until(lambda: text(phone, "now"), lambda words: "%" in words)
        past = until(lambda: len(phone.find_elements(By.CSS_SELECTOR, "#log div")), lambda count: count >= 2)
        table.row("a page opened later has the past", past >= 2, f"{past} events")
        over = phone.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        table.row("nothing is wider than a phone", over <= 0, f"{over} px")
        back = phone.execute_script("return getComputedStyle(document.body).backgroundColor")
        table.row("dark where the phone is dark", back == "rgb(17, 21, 27)", back)
        phone.save_screenshot(str(SHOTS / "page-phone-dark.png"))

        daemon.send_signal(signal.SIGUSR1)
        muted = until(lambda: desk.find_element(By.ID, "muted").is_displayed(), bool)
        table.row("a mute is visible", muted, muted)
        desk.save_screenshot(str(SHOTS / "page-muted.png"))
        daemon.send_signal(signal.SIGUSR1)
        table.row("and its end", not until(lambda: desk.find_element(By.ID, "muted").is_displayed(), lambda shown: not shown), "")

        daemon.send_signal(signal.SIGSTOP)
        still = until(lambda: text(desk, "link"), lambda words: words.startswith("no news"))
        table.row("a daemon that stands still is visible", still.startswith("no news"), still)
        daemon.send_signal(signal.SIGCONT)
        again = until(lambda: text(desk, "link"), lambda words: words == "live")
        table.row("and when it goes on", again == "live", again)

        metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read()
        said = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, check=False)
        words = (said.stdout + said.stderr).decode().strip()
        table.row("promtool finds nothing in the metrics", said.returncode == 0 and not words, words or f"{len(metrics)} bytes")

        ticks = lambda: sum(map(int, Path(f"/proc/{daemon.pid}/task/{thread}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
        thread = next(t for t in os.listdir(f"/proc/{daemon.pid}/task") if Path(f"/proc/{daemon.pid}/task/{t}/comm").read_text().strip() == "page")
        begin, start = ticks(), time.monotonic()
        time.sleep(8)
        share = 100 * (ticks() - begin) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - start)
        table.row("two open pages take at most 1 % of a core", share <= 1.0, f"{share:.2f} %")

        outside = [url for driver in drivers for url in asked(driver, port)]
        table.row("no address but its own was asked for", not outside, outside or "")
        errors = [line["message"] for driver in drivers for line in driver.get_log("browser") if line["level"] == "SEVERE"]
        table.row("no error in the console", not errors, errors or "")
    finally:
        for driver in drivers:
            driver.quit()
        daemon.send_signal(signal.SIGCONT)
        daemon.terminate()
        code = daemon.wait(10)
    table.row("the daemon ends well", code == 0, f"exit code {code}")


def main():
    SHOTS.mkdir(exist_ok=True)
    table = Table()
    with tempfile.TemporaryDirectory() as folder:
        drive(sys.argv[1], free_port(), Path(folder), table)
    if table.failed:
        raise SystemExit(f"error: {table.failed} rows do not hold")


if __name__ == "__main__":
    main()
