"""A real browser without a screen, for tests of pages; skipped, with the reason, where there is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_WAIT = 60  # seconds; test machines are shared


class Browser:
    """Chromium, with what it logs and whom it asks.

    Attributes:
        driver: Selenium's.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Load a page, and forget what was logged before."""
        self.driver.get("about:blank")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(url)

    def find(self, selector: str, text: str | None = None) -> Any:
        """The first shown element of a CSS selector, with this text if one is given; waits for it."""
        return self.wait(lambda: next((e for e in self.all(selector) if text is None or e.text.strip() == text), None))

    def all(self, selector: str) -> list[Any]:
        """The elements of a CSS selector that are shown."""
        from selenium.webdriver.common.by import By

        return [element for element in self.driver.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]

    def hand_in(self, selector: str, *paths: Path) -> None:
        """Choose files in an input of type "file", which need not be shown."""
        from selenium.webdriver.common.by import By

        element = self.wait(lambda: next(iter(self.driver.find_elements(By.CSS_SELECTOR, selector)), None))
        element.send_keys("\n".join(map(str, paths)))

    def wait(self, condition: Callable[[], Any]) -> Any:
        """What the condition gives once that is true."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        ignored = (StaleElementReferenceException,)  # a page may redraw what was just found
        return WebDriverWait(self.driver, _WAIT, poll_frequency=0.1, ignored_exceptions=ignored).until(lambda _: condition())

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def errors(self) -> list[str]:
        """What the console says went wrong since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened, but for those that hold their content themselves."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "blob:", "about:"))]

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        height = self.run("return Math.max(document.documentElement.scrollHeight, document.body.scrollHeight)")
        self.driver.set_window_size(1280, max(height + 150, 600))
        self.driver.save_screenshot(str(path))


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium; skips the test where it, its driver or Selenium is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'vim-svp[test]'")
    chromium = next((path for name in _NAMES if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        missing = "Chromium" if chromium is None else "chromedriver"
        pytest.skip(f"{missing} is not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",  # in a container, as root
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--window-size=1280,1000",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        running.set_page_load_timeout(_WAIT)
        yield Browser(running)
    finally:
        running.quit()
