"""MLflow's pages in a real browser: `mlflow ui` on loopback, and Debian's Chromium without a window."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tracking.servers import Server

# Where pictures for the README are put, if anywhere: PICTURES=docs/pictures make test-study.
PICTURES = os.environ.get("PICTURES")
PATIENCE = 90_000  # milliseconds; the first page takes many on a busy machine


class Pages:
    """One browser tab on one MLflow server.

    Attributes:
        folder: where `mlruns/` lies.
    """

    def __init__(self, folder: Path, uri: str, tab) -> None:
        self.folder = folder
        self.uri = uri
        self.tab = tab

    def open(self, address: str):
        """Go to a page of MLflow."""
        self.tab.goto("about:blank")
        self.tab.goto(f"{self.uri}/{address}")
        return self.tab

    def picture(self, name: str) -> None:
        """Keep a picture, where pictures are asked for."""
        if PICTURES:
            close = self.tab.get_by_label("Close", exact=True)  # a panel that takes a quarter of the page
            if close.count():
                close.first.click()
            self.tab.wait_for_timeout(1500)
            Path(PICTURES).mkdir(parents=True, exist_ok=True)
            self.tab.screenshot(path=f"{PICTURES}/{name}.png")


@contextmanager
def mlflow_pages(folder: Path) -> Iterator[Pages]:
    """Serve `folder`/mlruns/mlflow.db as `make ui` does, and open a browser."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("There is no chromium: apt-get install chromium.")
    server = Server(folder / "ui", ui_of=f"sqlite:///{folder}/mlruns/mlflow.db")
    server.start()
    try:
        with sync_playwright() as playwright:
            arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
            tab = browser.new_page(viewport={"width": 1400, "height": 820})
            tab.set_default_timeout(PATIENCE)
            yield Pages(folder, server.uri, tab)
            browser.close()
    finally:
        server.stop()
