"""Make docs/figures/web-demo.png: the page of `openpali demo` in Chromium, with answers about an example.

    python docs/tools/draw_web_demo.py MODEL [further options of openpali demo]

It chooses the first example of detection, or else of a caption, and asks its prompt and one for a caption.
"""

import io
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "helpers"))

from chromium import opened  # noqa: E402

FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "web-demo.png"
LARGEST = 300_000  # bytes


def draw(arguments: list[str], path: Path = FIGURE) -> None:
    """Serve the page, ask, and write what it looks like, in as many colours as there is room for."""
    command = [sys.executable, "-m", "openpali.eval.web_demo", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address, "the page was not served: the lines above say why"
        with opened(address[0]) as page:
            page.locator("#examples button").filter(has_text=re.compile("detect|caption")).last.click()
            page.wait_for_function("document.querySelector('#prompt textarea').value !== 'caption en'")
            prompt = page.input_value("#prompt textarea")
            page.fill("#prompt textarea", f"caption en\n{prompt}")
            page.click("#answer")
            page.wait_for_selector("#answers .seconds, #answers .message")
            # the mouse, which is over the button, would change its colour
            page.mouse.move(0, 0)
            page.evaluate("window.scrollTo(0, 0)")
            page.wait_for_timeout(1000)
            image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    finally:
        process.terminate()
        process.wait()
    image.save(path, optimize=True)
    for colours in (256, 128, 64):
        if path.stat().st_size < LARGEST:
            break
        image.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    draw(sys.argv[1:])
