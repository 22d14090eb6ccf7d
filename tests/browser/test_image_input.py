"""An image to begin with, in a real browser."""

import io
import re

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Site
from tests.chromium import NUMBER, Profile, generate, opened

PROMPT = "a red circle on a blue background"
INPUT = re.compile(r"^/v1/inputs/input_[0-9a-f]{64}/content$")


def photo(size: tuple[int, int] = (80, 48), kind: str = "PNG", color: str = "teal") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, color).save(content, kind)
    return content.getvalue()


def choose(page: Page, content: bytes, control: str = "init-input") -> None:
    """Choose a file in the section of images, which is opened if it is closed."""
    if not page.locator(f"#{control}").is_visible():
        page.click("#section-init button.label-wrap")
    page.set_input_files(f"#{control} input[type=file]", {"name": "a", "mimeType": "image/png", "buffer": content})


def finished(page: Page) -> None:
    expect(page.locator("#status .status[data-state=succeeded]")).to_be_visible()


def test_an_image_that_is_chosen_is_sent_and_begins_the_next_picture(page: Page, site: Site) -> None:
    choose(page, photo())
    thumbnail = page.get_by_role("img", name="Image to begin with")
    expect(thumbnail).to_have_attribute("src", INPUT)
    page.wait_for_function("document.querySelector('#init-input img').naturalWidth === 80")
    generate(page, PROMPT)
    finished(page)
    [spec] = site.pipeline.specs
    assert spec.init is not None
    assert spec.init.input in str(thumbnail.get_attribute("src"))
    assert (spec.init.strength, spec.init.mask) == (0.75, None)
    page.locator("#init-input").get_by_role("button", name="Remove").click()
    expect(thumbnail).to_be_hidden()
    first = page.url
    generate(page, PROMPT)
    page.wait_for_url(lambda url: url != first)  # it names the second job
    finished(page)
    assert site.pipeline.specs[1].init is None


def test_an_image_that_cannot_be_used_is_refused_on_its_field(page: Page, site: Site) -> None:
    choose(page, photo()[:60])
    error = page.locator("#init-input .field-error")
    expect(error).to_contain_text(re.compile("^The .*PNG"))
    expect(page.locator("#init-input input")).to_have_attribute("aria-invalid", "true")
    choose(page, b"words")
    expect(error).to_contain_text("PNG, JPEG or WebP")
    choose(page, photo(kind="JPEG"))
    expect(page.get_by_role("img", name="Image to begin with")).to_have_attribute("src", INPUT)
    expect(error).to_have_count(0)


def test_an_image_that_has_gone_meanwhile_is_to_be_chosen_again(page: Page, site: Site) -> None:
    for control, name, color in (("init-input", "Image to begin with", "teal"), ("init-mask", "Mask", "white")):
        choose(page, photo(color=color), control)
        expect(page.get_by_role("img", name=name)).to_have_attribute("src", INPUT)
        address = str(page.get_by_role("img", name=name).get_attribute("src")).removesuffix("/content")
        assert page.request.delete(f"{site.url}{address}").status == 204
    page.reload()
    page.wait_for_selector("button#generate:not(:disabled)")
    for control in ("init-input", "init-mask"):  # although the browser may still have both
        expect(page.locator(f"#{control} .image-state")).to_have_text("This image is gone. Choose it again.")
    page.locator("#init-mask").get_by_role("button", name="Remove").click()
    page.locator("#init-input").get_by_role("button", name="Right").click()
    expect(page.locator("#init-input .field-error")).to_have_text("This image is gone. Choose it again.")
    generate(page, PROMPT)
    expect(page.locator("#message")).to_contain_text("Image to begin with is gone. Choose it again.")
    choose(page, photo())  # the same, so the form's value stays
    expect(page.locator("#message .status")).to_have_count(0)


def test_a_reload_keeps_the_image_and_what_was_chosen_for_it(page: Page, site: Site) -> None:
    page.click("#section-init button.label-wrap")
    page.fill("#init-strength [data-testid=number-input]", "0.3")
    choose(page, photo())
    thumbnail = page.get_by_role("img", name="Image to begin with")
    expect(thumbnail).to_have_attribute("src", INPUT)
    page.reload()
    page.wait_for_selector("button#generate:not(:disabled)")
    expect(thumbnail).to_have_attribute("src", INPUT)
    expect(page.locator("#init-strength [data-testid=number-input]")).to_have_value("0.3")


def test_a_picture_can_be_the_image_to_begin_with(page: Page, site: Site) -> None:
    generate(page, PROMPT)
    choose(page, photo((64, 64)))
    thumbnail = page.get_by_role("img", name="Image to begin with")
    expect(thumbnail).to_have_attribute("src", INPUT)
    first = str(thumbnail.get_attribute("src"))
    choose(page, photo((64, 64), color="white"), "init-mask")
    mask = page.get_by_role("img", name="Mask")
    expect(mask).to_have_attribute("src", INPUT)
    page.get_by_role("button", name="Use as input").click()
    expect(page.locator("#message").get_by_role("status")).to_have_text("The next picture begins with this one.")
    expect(thumbnail).to_have_attribute("src", re.compile("^/v1/files/job_"))
    page.wait_for_function("document.querySelector('#init-input img').naturalWidth === 64")
    expect(mask).to_be_visible()  # as it is as large
    page.get_by_role("button", name="Undo").click()
    expect(thumbnail).to_have_attribute("src", first)
    choose(page, photo())
    expect(mask).to_be_hidden()
    choose(page, photo(color="white"), "init-mask")
    expect(mask).to_have_attribute("src", INPUT)
    page.get_by_role("button", name="Use as input").click()
    expect(page.locator("#message")).to_contain_text("The mask was removed, as its image had another size.")
    expect(thumbnail).to_have_attribute("src", re.compile("^/v1/files/job_"))
    expect(mask).to_be_hidden()
    page.reload()
    page.wait_for_selector("button#generate:not(:disabled)")
    expect(thumbnail).to_have_attribute("src", re.compile("^/v1/files/job_"))
    first = page.url
    page.click("#generate")
    page.wait_for_url(lambda url: url != first)
    finished(page)
    init = site.pipeline.specs[1].init
    assert init is not None
    assert init.input.startswith("input_")


def transferred(page: Page, event: str, target: str, content: bytes) -> None:
    """Drop or paste a file on an element."""
    page.evaluate(
        """([event, target, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
            const options = { bubbles: true, cancelable: true };
            const carried = event === "drop" ? new DragEvent(event, { dataTransfer: data, ...options })
                : new ClipboardEvent(event, { clipboardData: data, ...options });
            document.querySelector(target).dispatchEvent(carried);
        }""",
        [event, target, [*content]],
    )


def test_an_image_that_is_pasted_or_dropped_anywhere_is_taken_and_one_on_the_mask_is_the_mask(page: Page) -> None:
    thumbnail = page.get_by_role("img", name="Image to begin with")
    transferred(page, "paste", "#prompt textarea", photo(color="navy"))
    expect(thumbnail).to_have_attribute("src", INPUT)
    first = thumbnail.get_attribute("src")
    transferred(page, "drop", "#gallery", photo(color="red"))
    expect(thumbnail).not_to_have_attribute("src", str(first))
    second = str(thumbnail.get_attribute("src"))
    transferred(page, "drop", "#init-mask .drop", photo(color="white"))
    expect(page.get_by_role("img", name="Mask")).to_have_attribute("src", INPUT)
    expect(thumbnail).to_have_attribute("src", second)


def test_generate_and_a_reload_wait_for_an_image_that_is_on_its_way(site: Site, profile: Profile) -> None:
    page = opened(profile(), site.url)
    site.pipeline.specs.clear()
    page.fill("#prompt textarea", PROMPT)
    held: list[Route] = []
    page.route("**/v1/inputs", lambda route: held.append(route))
    choose(page, photo())
    page.click("#generate")
    asked: list[str] = []
    page.on("dialog", lambda dialog: asked.append(dialog.type) or dialog.dismiss())
    with page.expect_event("dialog"):
        page.evaluate("setTimeout(() => location.reload())")
    held[0].continue_()
    finished(page)
    assert asked == ["beforeunload"]  # a reload would lose the image
    [spec] = site.pipeline.specs
    assert spec.init is not None


def test_on_a_phone_everything_of_an_image_fits_and_is_large_enough_and_axe_finds_nothing(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    choose(page, photo((900, 500)))
    expect(page.get_by_role("img", name="Image to begin with")).to_have_attribute("src", INPUT)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#init-input input[type=file]").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    drop = page.locator("#init-input .drop label")
    box = drop.bounding_box()
    assert box
    left, middle = max(0, box["x"] - 4), box["y"] + box["height"] / 2
    ring = page.screenshot(clip={"x": left, "y": middle, "width": 5, "height": 1})
    colors = [color for _, color in Image.open(io.BytesIO(ring)).convert("RGB").getcolors() or ()]
    assert any(red > 200 and blue < 60 for red, _, blue in colors), "the focus ring is whole on its left"
    small = page.evaluate(
        """[...document.querySelectorAll('#section-init :is(button, label)')]
            .filter((e) => e.checkVisibility() && !e.querySelector('[type=checkbox]'))
            .filter((e) => e.getBoundingClientRect().height < 44)
            .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert small == [], small
    found = Axe().run(page).response["violations"]
    assert not found, [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]


def mask_of(page: Page, site: Site) -> Image.Image:
    """The mask that the form has, in black and white."""
    shown = page.get_by_role("img", name="Mask")
    expect(shown).to_have_attribute("src", INPUT)
    return Image.open(io.BytesIO(page.request.get(f"{site.url}{shown.get_attribute('src')}").body())).convert("1")


def share(mask: Image.Image) -> float:
    """How much of a mask is white."""
    return mask.histogram()[255] / (mask.width * mask.height)


def test_a_mask_is_painted_with_a_pointer_or_a_keyboard_and_can_be_changed(page: Page, site: Site) -> None:
    page.click("#section-init button.label-wrap")
    page.locator("#init-mask").get_by_role("button", name="Paint").click()
    expect(page.locator("#init-input .field-error")).to_contain_text("Choose an image first.")
    choose(page, photo())
    expect(page.get_by_role("img", name="Image to begin with")).to_have_attribute("src", INPUT)
    page.locator("#init-mask").get_by_role("button", name="Paint").click()
    canvas = page.locator(".painter canvas")
    box = canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + 20, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    page.get_by_role("button", name="Use mask").click()
    painted = mask_of(page, site)
    assert painted.size == (80, 48)
    assert (painted.getpixel((20, 24)), painted.getpixel((20, 2)), painted.getpixel((70, 24))) == (255, 0, 0)

    first = page.get_by_role("img", name="Mask").get_attribute("src")
    page.locator("#init-mask").get_by_role("button", name="Paint").press("Enter")
    expect(canvas).to_be_focused()
    page.get_by_role("button", name="Invert").press("Enter")
    canvas.focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Use mask").press("Enter")
    expect(page.get_by_role("img", name="Mask")).not_to_have_attribute("src", str(first))
    inverted = mask_of(page, site)
    assert (inverted.getpixel((20, 24)), inverted.getpixel((20, 2)), inverted.getpixel((40, 24))) == (0, 255, 255)
    generate(page, PROMPT)
    finished(page)
    init = site.pipeline.specs[0].init
    assert init is not None
    assert str(init.mask) in str(page.get_by_role("img", name="Mask").get_attribute("src"))
    assert init.paste_back


def test_a_mask_that_is_cleared_or_given_up_changes_nothing_on_a_phone_and_axe_finds_nothing(
    page: Page, site: Site
) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    choose(page, photo((900, 500)))
    expect(page.get_by_role("img", name="Image to begin with")).to_have_attribute("src", INPUT)
    page.locator("#init-mask").get_by_role("button", name="Paint").evaluate("paint => [paint.click(), paint.click()]")
    expect(page.locator(".painter canvas")).to_be_focused()
    page.locator(".painter canvas").press("Space")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator(".painter").bounding_box()
    assert box
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    found = Axe().run(page).response["violations"]
    assert not found, [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]
    page.keyboard.press("Escape")
    said = page.locator(".painter").get_by_role("status")
    expect(said).to_have_text("Press Escape again to discard what you painted.")
    page.keyboard.press("Escape")
    expect(page.locator(".painter")).to_have_count(0)
    expect(page.get_by_role("img", name="Mask")).to_be_hidden()
    page.locator("#init-mask").get_by_role("button", name="Paint").click()
    page.get_by_role("button", name="Invert").click()
    page.get_by_role("button", name="Clear").click()
    page.locator(".painter canvas").press("Space")
    page.get_by_role("button", name="Use mask").click()
    assert 0.01 < share(mask_of(page, site)) < 0.1


def test_a_picture_is_compared_with_the_image_that_it_began_with_by_keyboard(page: Page, site: Site) -> None:
    choose(page, photo())
    page.locator("#init-resize_mode input").click()
    page.get_by_role("option", name="Fit").click()
    expect(page.get_by_role("img", name="Image to begin with")).to_have_attribute("src", INPUT)
    generate(page, PROMPT)
    finished(page)
    slider = page.get_by_role("slider", name="How much is shown of the image that it began with")
    before = page.locator(".tile .before")
    expect(before).to_be_hidden()
    slider.press("ArrowRight")
    expect(before).to_be_visible()
    page.wait_for_function("document.querySelector('.tile .before').naturalWidth === 80")
    slider.press("End")
    expect(before).to_have_css("clip-path", "inset(0px 0% 0px 0px)")
    expect(before).to_have_css("background-color", "rgba(0, 0, 0, 0)")  # the filled edges can be seen beside it
    picture, shown = page.get_by_role("img", name=PROMPT, exact=True).bounding_box(), before.bounding_box()
    assert picture == shown
    found = Axe().run(page, context="#gallery").response["violations"]
    assert not found, [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]


def test_an_image_goes_on_in_a_direction_and_its_mask_with_it(page: Page, site: Site) -> None:
    choose(page, photo())
    thumbnail = page.get_by_role("img", name="Image to begin with")
    expect(thumbnail).to_have_attribute("src", INPUT)
    for button, size in (("Right", (100, 48)), ("All sides", (150, 72))):
        page.get_by_role("button", name=button).press("Enter")
        page.wait_for_function(
            "([w, h]) => ['input', 'mask'].every((id) => {"
            "const { naturalWidth, naturalHeight } = document.querySelector(`#init-${id} img`);"
            "return naturalWidth === w && naturalHeight === h; })",
            arg=size,
        )
    mask = mask_of(page, site)
    assert [mask.getpixel(at) for at in ((0, 36), (30, 36), (110, 36), (149, 36), (60, 0))] == [255, 0, 255, 255, 255]
    page.fill("#prompt textarea", PROMPT)
    page.get_by_role("button", name="Left").click()
    page.click("#generate")  # which waits for what is extended
    finished(page)
    init = site.pipeline.specs[0].init
    assert init is not None
    assert init.input in str(thumbnail.get_attribute("src"))
    page.wait_for_function("document.querySelector('#init-input img').naturalWidth > 150")
    assert (init.area, init.strength, init.paste_back) == ("masked", 1.0, True)
    expect(page.get_by_role("img", name=PROMPT, exact=True)).to_have_class("natural")
    page.locator("#init-input").get_by_role("button", name="Remove").click()
    expect(page.get_by_role("img", name="Mask")).to_be_hidden()  # with its image


def test_what_an_extension_has_set_goes_with_its_mask_which_stays_with_an_image_of_its_size(
    page: Page, site: Site
) -> None:
    choose(page, photo())
    expect(page.get_by_role("img", name="Image to begin with")).to_have_attribute("src", INPUT)
    page.locator("#init-input").get_by_role("button", name="Right").click()
    strength = page.locator(f"#init-strength {NUMBER}")
    expect(strength).to_have_value("1")
    mask = page.get_by_role("img", name="Mask")
    expect(mask).to_have_attribute("src", INPUT)
    extended = str(page.get_by_role("img", name="Image to begin with").get_attribute("src"))
    choose(page, photo((100, 48), color="navy"))  # as large as what was extended
    expect(page.get_by_role("img", name="Image to begin with")).not_to_have_attribute("src", extended)
    expect(mask).to_be_visible()
    choose(page, photo((48, 80), color="red"))
    expect(mask).to_be_hidden()
    expect(page.locator("#init-mask .image-state")).to_have_text("Removed: the new image has another size.")
    expect(strength).to_have_value("0.75")
    expect(page.locator("#init-area input")).to_have_value("Whole")


def contrast(shown: Image.Image) -> float:
    """Between the colours that a picture has at its corner and in its middle, as WCAG counts it."""

    def luminance(at: tuple[int, int]) -> float:
        channels = [value / 255 for value in shown.convert("RGB").crop((*at, at[0] + 1, at[1] + 1)).tobytes()]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return sum(share * value for share, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted(luminance(at) for at in ((0, 0), (shown.width // 2, 4)))
    return (high + 0.05) / (low + 0.05)


def test_the_painter_shows_that_it_erases_and_stays_while_nothing_is_painted(page: Page, site: Site) -> None:
    choose(page, photo())
    expect(page.get_by_role("img", name="Image to begin with")).to_have_attribute("src", INPUT)
    page.locator("#init-mask").get_by_role("button", name="Paint").click()
    canvas = page.locator(".painter canvas")
    expect(canvas).to_be_focused()
    erase = page.get_by_label("Erase")
    for dark in (False, True):
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
        erase.uncheck()
        expect(erase).to_have_css("background-color", "rgba(0, 0, 0, 0)")  # when its colour has changed
        plain = Image.open(io.BytesIO(erase.screenshot(animations="disabled")))
        erase.check()
        chosen = Image.open(io.BytesIO(erase.screenshot(animations="disabled")))
        assert contrast(plain) < 1.5, dark
        assert contrast(chosen) >= 3, dark

    page.get_by_role("button", name="Use mask").click()
    said = page.locator(".painter").get_by_role("status")
    expect(said).to_have_text("Nothing is painted yet. Paint over what changes.")
    canvas.press("Space")
    expect(said).to_have_text("")
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Use mask").click()
    expect(said).to_contain_text("Nothing is painted yet.")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".painter")).to_have_count(0)
    expect(page.get_by_role("img", name="Mask")).to_be_hidden()
