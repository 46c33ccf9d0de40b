"""A page in Chromium that may neither write errors to its console nor ask any host but its own."""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ABSENT = "NOT TESTED, since there is no Chromium: the page of `openpali demo` (install it: apt-get install chromium)"
WAIT = 300_000  # milliseconds; a busy machine is slow
# a camera that shows a moving picture
OPTIONS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


def needs_chromium() -> Any:
    """A mark for tests, which says loudly where they are skipped."""
    if CHROMIUM is None:
        warnings.warn(ABSENT, stacklevel=2)
    return pytest.mark.skipif(CHROMIUM is None, reason=ABSENT)


@contextmanager
def opened(address: str, **options: Any) -> Iterator[Any]:
    """A page at an address.

    Args:
        address: such as http://127.0.0.1:7860/
        **options: of Playwright's `new_page`, such as `color_scheme`.

    Raises:
        AssertionError: at the end, if there were errors in the console, failed requests, or requests elsewhere.
    """
    from playwright.sync_api import sync_playwright

    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
            page.set_default_timeout(WAIT)
            page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("response", lambda got: faults.append(f"{got.status} {got.url}") if got.status >= 400 else None)

            def watch(route: Any) -> None:
                if route.request.url.startswith((address, "data:", "blob:")):
                    route.continue_()
                else:
                    faults.append(f"asked for {route.request.url}")
                    route.abort()

            page.route("**/*", watch)
            page.goto(address)
            page.wait_for_selector("#answer")
            yield page
            assert faults == []
        finally:
            browser.close()


# ends when all animations that end have done so
FADED = """Promise.all(document.getAnimations()
    .filter(one => one.effect.getTiming().iterations !== Infinity)
    .map(one => one.finished.catch(() => null))).then(() => true)"""


def violations(page: Any) -> list[str]:
    """Serious and critical faults that axe-core finds, each with the first element."""
    from axe_playwright_python.sync_playwright import Axe

    # text that fades in has less contrast on its way; Gradio dims an output that it waits for
    page.wait_for_function("!document.querySelector('.pending')")
    page.evaluate(FADED)
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]
