"""The pages in Chromium, as a reader has them: on a desk and on a phone, with the mouse, by keyboard, and by ear."""

import shutil

import pytest
from PIL import Image

from openpali.eval.answering.evaluate_task import TaskResult
from openpali.eval.groups.report import add_groups
from openpali.eval.report.compare import compare_models, write_comparison
from openpali.eval.report.page import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("THE REPORT IS NOT TRIED IN A BROWSER: there is no Chromium here", allow_module_level=True)
reason = "THE REPORT IS NOT TRIED IN A BROWSER: pip install playwright"
sync_api = pytest.importorskip("playwright.sync_api", reason=reason)

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
LONG = "a very long answer " * 40
MASK = {"size": [8, 8], "counts": [9, 6, 2, 6, 41]}


def example(i, task, score, **extra):
    row = {"id": f"{task}-{i}", "index": i, "pictures": 1, "task": task, "prefix": "answer en what is this?"}
    row |= {"text": "dog" if score else "cat", "references": ["dog" if i % 3 else "cat"], "score": score}
    return row | {"boxes": [], "predicted_boxes": [], "prediction": "dog", "reference": ["dog"]} | extra


def objects(i, score, reference=None):
    true = {"box": [0.1, 0.1, 0.6, 0.6], "label": "dog"}
    one = example(i, "segment", score, prefix="segment dog", boxes=[true], masks=[MASK], reference=reference or [true])
    return one | {"text": LONG, "predicted_boxes": [true | {"box": [0.2, 0.1, 0.8, 0.7], "mask": MASK}]}


def result(name, rows, key):
    metrics = {key: sum(row["score"] for row in rows) / len(rows), "examples": float(len(rows))}
    return TaskResult(name, metrics, rows, key, blank_metrics=metrics, intervals={key: (0.1, 0.9)})


def images_of(rows):
    return {row["id"]: Image.new("RGB", (32 + row["index"], 24), (200, 40 * row["index"] % 255, 90)) for row in rows}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Six answers, of which two are wrong, and four masks."""
    answers = result("what", [example(i, "what", float(i % 3 > 0)) for i in range(6)], "exact_match")
    masks = result("segment", [objects(i, i / 4) for i in range(1, 5)], "mean_iou")
    answers.predictions[1]["text"] = "ÉLÉPHANT"
    logs = [{"step": i, "loss": 1 / (i + 1), "eval_cider": 9.0 * i} for i in range(9)]
    images = images_of(answers.predictions + masks.predictions)
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(path, "T", [answers, masks], images, logs, settings={"checkpoint": "outputs/x" * 20})


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Two models on eight examples; the second one is better on three and worse on one."""
    scores = {"one": [1, 0, 0, 0, 1, 1, 0, 1], "a-model-with-a-long-name": [1, 1, 1, 1, 0, 1, 0, 1]}
    results = {
        name: result("segment", [objects(i, float(score), ["dog"]) for i, score in enumerate(row)], "exact_match")
        for name, row in scores.items()
    }
    differences = compare_models(results, "exact_match")
    path = tmp_path_factory.mktemp("comparison") / "report.html"
    return write_comparison(path, "T", results, differences, images_of(results["one"].predictions))


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """Forty answers by two labels, one of which has a long name, and a few without one."""
    rows = [example(i, "what", float(i % 3 > 0), prediction="dog" if i % 3 else "cat") for i in range(44)]
    for i, row in enumerate(rows):
        row["groups"] = {"age": ("3-9", "10-19", "70 and more")[i % 3]} | ({"a-long-label" * 4: "x"} if i < 40 else {})
    answers = result("what", rows, "exact_match")
    add_groups(answers, "exact_match", ["age", "a-long-label" * 4])
    path = tmp_path_factory.mktemp("grouped") / "report.html"
    return write_report(path, "T", [answers], images_of(rows[:60]))


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open a page of a given size; after the test nothing may be on the console, nor have been asked of a network."""
    contexts, troubles = [], []

    def open_page(path, size=DESK, **options):
        contexts.append(browser.new_context(viewport=size, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: troubles.append(request.url) if is_foreign(request.url) else None)
        page.goto(path.as_uri())
        return page

    def is_foreign(url):
        return not url.startswith(("file:", "data:"))

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def shown(page):
    return [card.get_attribute("aria-label").partition(":")[0] for card in page.locator("article:visible").all()]


def test_filters_hide_and_show(visit, report):
    page = visit(report)
    assert len(shown(page)) == 10
    page.get_by_label("Task", exact=True).select_option("what")
    assert len(shown(page)) == 6
    assert not page.locator("#task-2").is_visible()
    page.get_by_label("Examples", exact=True).select_option("wrong (score 0)")
    assert shown(page) == ["what-0", "what-3"]
    assert page.locator("output").text_content() == "2 of 10 examples shown"
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.querySelector('output').textContent.startsWith('10 ')")
    page.get_by_label("Search in texts").fill(" éléphant ")
    assert shown(page) == ["what-1"]
    page.get_by_label("Search in texts").fill("")
    page.get_by_label("Score from").fill("40")
    page.get_by_label("Score to").fill("80")
    assert sorted(shown(page)) == ["segment-2", "segment-3"]
    page.get_by_label("Examples", exact=True).select_option("right")
    assert shown(page) == []
    # a link to a task that a filter hides
    page.get_by_role("button", name="Show all").click()
    page.get_by_label("Task", exact=True).select_option("what")
    page.get_by_role("link", name="segment").click()
    assert page.locator("#task-2").is_visible()


def test_boxes_and_masks_are_switched_off_apart(visit, report):
    page = visit(report)
    layers = {name: page.locator(f"img.{name}").first for name in ("boxes", "masks")}
    assert all(layer.is_visible() for layer in layers.values())
    page.get_by_label("boxes", exact=True).uncheck()
    assert not layers["boxes"].is_visible()
    assert layers["masks"].is_visible()
    page.get_by_label("masks", exact=True).uncheck()
    assert not layers["masks"].is_visible()
    # all images were read
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    # a layer covers its image
    page.get_by_label("boxes", exact=True).check()
    image, layer = page.locator(".drawing:has(img.boxes)").first.locator("img").first, layers["boxes"]
    assert layer.bounding_box() == pytest.approx(image.bounding_box(), abs=0.5)


def test_the_comparison_has_filters_of_its_own(visit, comparison):
    page = visit(comparison)
    assert page.locator("h2").first.text_content() == "Largest differences"
    page.get_by_label("Examples", exact=True).select_option("worse than one")
    assert shown(page) == ["segment-4"]
    page.get_by_label("Examples", exact=True).select_option("scores differ")
    assert shown(page) == ["segment-1", "segment-2", "segment-3", "segment-4"]
    page.get_by_label("Examples", exact=True).select_option("all wrong (score 0)")
    assert shown(page) == ["segment-6"]


def test_without_scripts_everything_is_there(visit, report):
    page = visit(report, java_script_enabled=False)
    assert len(shown(page)) == 10
    assert not page.locator("form").is_visible()


def test_groups_have_a_table_for_each_label_with_whiskers_on_one_scale(visit, grouped):
    page = visit(grouped)
    tables = page.locator("table.bygroup")
    assert tables.count() == 2
    ages = tables.first.locator("tbody tr")
    assert [ages.nth(i).locator("th").text_content().strip() for i in range(3)] == ["3-9", "10-19", "70 and more"]
    assert "together 65.9 %" in tables.first.locator("caption").text_content()
    assert "4 examples have no label" in tables.nth(1).locator("caption").text_content()
    gap = page.locator("p.gap").first.text_content()
    assert "Largest gap 100.0 points" in gap
    assert "between 10-19 and 3-9" in gap
    dots = [dot.bounding_box() for dot in tables.first.locator(".whisker em").all()]
    lines = [line.bounding_box() for line in tables.first.locator(".whisker").all()]
    # 0 % lies at the left end of the line, 100 % at the right one
    assert dots[0]["x"] + 5 == pytest.approx(lines[0]["x"], abs=1)
    assert dots[1]["x"] + 5 == pytest.approx(lines[1]["x"] + lines[1]["width"], abs=1)


@pytest.mark.parametrize("name", ["report", "comparison", "grouped"])
def test_a_phone_does_not_scroll_sideways(visit, name, request):
    page = visit(request.getfixturevalue(name), PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    # nor does the table of scores in its frame
    assert page.evaluate(
        "(() => { const frame = document.querySelector('[aria-label=Scores]');"
        " return frame.scrollWidth <= frame.clientWidth; })()"
    )
    for control in page.locator("form :is(input, select, button)").all():
        box = control.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_every_control_is_reached_by_keyboard_and_shows_it(visit, name, request):
    page = visit(request.getfixturevalue(name))
    wanted = page.locator("form :is(input, select, button)").count()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        here = page.evaluate(
            "(() => { const at = document.activeElement, style = getComputedStyle(at);"
            " return {form: !!at.closest('form'), name: at.name || at.textContent,"
            " outline: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2}; })()"
        )
        if here["form"]:
            assert here["outline"], here
            reached.add(here["name"])
    assert len(reached) == wanted
    # a long answer scrolls by keyboard
    assert page.locator('.long[tabindex="0"]').count() >= 4


@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [
        ("report", DESK, "light"),
        ("report", PHONE, "dark"),
        ("comparison", DESK, "dark"),
        ("comparison", PHONE, "light"),
        ("grouped", DESK, "dark"),
        ("grouped", PHONE, "light"),
    ],
)
def test_nothing_serious_is_found_by_axe(visit, name, size, scheme, request):
    reason = "THE REPORT IS NOT TRIED WITH AXE: pip install axe-playwright-python"
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=reason)
    page = visit(request.getfixturevalue(name), size, color_scheme=scheme)
    found = axe.Axe().run(page).response["violations"]
    serious = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
    assert serious == []
