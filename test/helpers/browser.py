"""A real Chromium, driven by the tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
WAIT_S = 60
MISSING = "Chromium and its driver are not installed (Debian's chromium and chromium-driver)"
NEEDS_CHROMIUM = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)


def start_chromium(profile: Path, size: str = "1200,750") -> Any:
    """Return the driver of a browser of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
        f"--disable-background-networking --disable-component-update --disable-sync --window-size={size} "
        f"--user-data-dir={profile}"
    ).split():
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))


class Browser:
    """A browser and what a person does in the tab that it shows."""

    def __init__(self, driver: Any) -> None:
        self.browser = driver

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.browser).send_keys(*keys).perform()

    def chord(self, modifier: str, key: str) -> None:
        webdriver.ActionChains(self.browser).key_down(modifier).send_keys(key).key_up(modifier).perform()

    def text(self, name: str) -> str:
        return str(self.browser.find_element(By.ID, name).text)

    def run(self, script: str) -> Any:
        return self.browser.execute_script(f"return {script}")

    def until(self, is_true: Callable[[], Any]) -> None:
        WebDriverWait(self.browser, WAIT_S, poll_frequency=0.05).until(lambda _: is_true())

    def close_tabs(self) -> None:
        """Leave one tab that shows nothing."""
        for extra in self.browser.window_handles[1:]:
            self.browser.switch_to.window(extra)
            self.browser.close()
        self.browser.switch_to.window(self.browser.window_handles[0])
        self.browser.get("about:blank")
