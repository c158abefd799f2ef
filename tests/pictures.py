"""The pictures of the docs: 10,000 letters of six causes on a real Kafka, as the views show them.

`make pictures`.
"""

import asyncio
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from PIL import Image
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from consumer.dead_letters.selection import Filter
from consumer.dead_letters.service import TriageService
from leadstream.cli.dead_letters.watch.app import WatchApp
from leadstream.errors import Poison, Reason
from leadstream.kafka.batch import Output
from leadstream.kafka.dead_letter import dead_letter
from leadstream.kafka.topics import Topics, variable
from leadstream.local.kafka import local_kafka
from leadstream.settings import load_settings
from schemas.codec import Writer
from tests.browser import chromium
from tests.fakes import FakeMessage
from tests.integration.running import Stage, until
from tests.trained_models import promoted_store
from tests.unit.pipelines import event

IMAGES = Path(__file__).parents[1] / "docs" / "images"
CHANGE = Writer("LeadChanged")
CAUSES = (
    (
        4000,
        Reason.LEAD_NOT_FOUND,
        "state",
        "the change carries no state and Postgres has no such lead",
    ),
    (2500, Reason.INVALID_EVENT, "validate", "created_at is {i} ms after occurred_at"),
    (1500, Reason.DECODE_FAILED, "decode", "A text is not valid UTF-8 (it ends before byte {i})."),
    (1200, Reason.UNKNOWN_FRAMING, "decode", "The value begins with 7b and is in neither framing."),
    (500, Reason.INVALID_EVENT, "validate", "lead_score {i} is not between 0 and 100"),
    (300, Reason.OVERSIZED, "decode", "the value has {i} bytes; a lead change has at most 262144"),
)
NEWER = 412


def letters(stage: Stage) -> Iterator[Output]:
    """Those of each cause; some would pass by now, and of some the lead has changed since."""
    now, number = time.time_ns() // 1_000_000, 0
    for count, reason, stage_, words in CAUSES:
        for i in range(count):
            number += 1
            lead = f"lead_{100_000 + number}"
            yield dead_letter(
                stage.topics.dead_letters,
                FakeMessage(
                    stage.topics.lead_changes,
                    number % 6,
                    number,
                    lead.encode(),
                    value(lead, reason),
                    [],
                    now,
                ),
                Poison(reason, stage_, words.format(i=1000 + i)),
                failed_at=now - 2_000 + number // 5,
                group_id="leadstream",
                model_version="1.0.0",
            )


def value(lead: str, reason: Reason) -> bytes:
    if reason is Reason.UNKNOWN_FRAMING:
        return b'{"lead_id": "%s", "score": 55}' % lead.encode()
    good = CHANGE.encode(event(lead, {"status": "qualifiXe"}))
    return good.replace(b"X", b"\xe9") if reason is Reason.DECODE_FAILED else good


@contextmanager
def environment() -> Iterator[Stage]:
    """A broker with the letters, and a consumer that has processed newer changes of some leads."""
    with tempfile.TemporaryDirectory() as name, local_kafka(say=lambda _: None) as node:
        folder = Path(name)
        stage = Stage.on(node.bootstrap, folder, promoted_store(folder / "models"), create=False)
        stage.topics = Topics()  # the broker is ours, so topics may have their own names
        stage.environment |= {
            variable(each.name): getattr(stage.topics, each.name) for each in fields(Topics)
        }
        stage.create_topics(6)
        stage.send(letters(stage))
        first = 100_001 + CAUSES[0][0]
        with stage.running() as consumer:
            stage.send([stage.change(f"lead_{first + i}", lead_version=2) for i in range(NEWER)])
            stage.predictions(NEWER)
            yield stage
            consumer.stop()


@contextmanager
def console(stage: Stage) -> Iterator[Callable[[], str]]:
    """A running console; each call gives the newest link."""
    with stage.running("console", "--port", "0", "--by", "anna") as process:

        def link() -> str:
            return str(
                until(lambda: re.findall(r"http://\S+", "\n".join(process.lines())), "the link")[-1]
            )

        yield link


def picture(browser: WebDriver, name: str, folder: Path, *, width: int = 1280) -> None:
    """The whole page, up to where it is long."""

    def sized(height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    sized(600)
    height = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]["height"]
    sized(min(2400, max(600, int(height) + 1)))
    file = folder / f"{name}.png"
    browser.save_screenshot(str(file))
    Image.open(file).convert("RGB").quantize(128).save(file, optimize=True)


def walk(browser: WebDriver, link: str, folder: Path) -> None:
    """Every page once, and a picture of each."""

    def press(label: str) -> None:
        def pressed() -> bool:
            try:
                browser.find_element(By.XPATH, f"//button[contains(., '{label}')]").click()
            except WebDriverException:  # the page reloaded between the two
                return False
            return True

        until(pressed, f"a button with the text {label}")

    def over() -> bool:
        return not browser.find_elements(By.CSS_SELECTOR, "meta[http-equiv=refresh]")

    def asks() -> bool:
        return bool(browser.find_elements(By.NAME, "comment"))

    browser.get(link)
    until(lambda: browser.find_elements(By.CSS_SELECTOR, ".cause"), "the causes")
    picture(browser, "console", folder)
    browser.find_element(By.LINK_TEXT, "DECODE_FAILED").click()
    picture(browser, "letters", folder)
    browser.find_element(By.CSS_SELECTOR, "tbody a").click()
    picture(browser, "letter", folder)
    browser.find_element(By.LINK_TEXT, "Causes").click()
    press("Dry run of all")
    picture(browser, "dry-run-progress", folder)
    until(asks, "the dry run")
    picture(browser, "dry-run", folder)
    browser.find_element(By.LINK_TEXT, "Causes").click()
    press("Dry run")
    until(asks, "the dry run")
    browser.find_element(By.NAME, "comment").send_keys("the CRM has committed by now")
    press("Replay ")
    until(
        lambda: browser.find_elements(By.CSS_SELECTOR, "progress[value]:not([value='0'])"),
        "it goes on",
    )
    picture(browser, "replay", folder)
    press("Stop after")
    until(over, "it stops")
    picture(browser, "stopped", folder)
    browser.find_element(By.LINK_TEXT, "Causes").click()
    browser.find_elements(By.XPATH, "//button[contains(., 'Discard')]")[3].click()
    until(asks, "the count")
    picture(browser, "discard", folder)
    browser.find_element(By.NAME, "comment").send_keys("the old exporter was left on")
    press("Discard ")
    until(over, "it is done")
    picture(browser, "discarded", folder)
    browser.find_element(By.LINK_TEXT, "Audit").click()
    picture(browser, "audit", folder)


def narrow(browser: WebDriver, link: str, folder: Path) -> None:
    """The pages as a telephone shows them, in the dark."""
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    browser.get(link)
    until(lambda: browser.find_elements(By.CSS_SELECTOR, ".cause"), "the causes")
    home = browser.current_url
    pages = {
        "console": "",
        "letters": "letters?limit=5",
        "letter": "letters/0-3",
        "dry-run": "jobs/1",
        "audit": "audit",
    }
    for name, page in (
        pages | {"discard": "jobs/4", "stopped": "jobs/3", "error": "letters?since=x"}
    ).items():
        browser.get(home + page)
        picture(browser, f"narrow-{name}", folder, width=400)


async def watched(stage: Stage) -> str:
    """The causes on a screen of 100 columns, as SVG."""
    with TriageService(load_settings(stage.environment, None)) as triage:
        app = WatchApp(triage, Filter(), "anna")
        async with app.run_test(size=(100, 24)) as pilot:
            while "causes" not in app.export_screenshot():
                await pilot.pause(0.1)
            return app.export_screenshot()


def main(folder: Path | None) -> None:
    """All pictures into a folder; without one those of the docs."""
    with (
        tempfile.TemporaryDirectory() as name,
        environment() as stage,
        console(stage) as link,
        chromium() as browser,
    ):
        made = folder or Path(name)
        drawing = made / "watch.svg"
        drawing.write_text(asyncio.run(watched(stage)))
        browser.get(drawing.as_uri())
        picture(browser, "watch", made, width=1240)
        walk(browser, link(), made)
        if folder:
            narrow(browser, link(), folder)
        else:
            for kept in ("console", "dry-run", "watch"):
                shutil.copy(made / f"{kept}.png", IMAGES)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
