"""The page for everyone: by keyboard, by ear, in the dark, on a phone, without motion; and what axe says of it."""

from __future__ import annotations

import re

import pytest
from browser import axe_faults
from page_rig import LIGHT, STAR, Visit, Visitor
from playwright.sync_api import expect
from sample_pictures import PICTURES, TRUTH

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def test_by_keyboard_alone(visit: Visit) -> None:
    me = visit()
    expect(me.page.locator("#samples img").first).to_be_visible()
    outlined = "(it) => [it, it.closest('label')].some((e) => e && getComputedStyle(e).outlineStyle === 'solid')"
    for control in (
        me.page.get_by_role("button", name="History"),
        me.page.get_by_role("button", name="Light or dark"),
        me.page.get_by_label("Choose a picture"),
        me.page.get_by_role("button", name="Sample").first,
    ):
        me.page.keyboard.press("Tab")
        expect(control).to_be_focused()
        assert control.evaluate(outlined)
    me.choose(LIGHT)
    expect(me.question).to_be_focused()
    me.page.keyboard.type("Describe")
    me.page.keyboard.press("Shift+Enter")
    me.page.keyboard.type("the picture.")
    expect(me.question).to_have_value("Describe\nthe picture.")
    me.question.fill("Describe the picture.")
    me.page.keyboard.press("Enter")
    expect(me.turn.get_by_role("button", name="Copy")).to_be_visible()
    expect(me.question).to_be_focused()
    me.question.fill("Where is the green circle?")
    me.page.keyboard.press("Tab")
    me.page.keyboard.press("Enter")  # on Ask, which gives way to Stop and comes back
    expect(me.page.get_by_role("article")).to_have_count(2)
    expect(me.page.get_by_role("button", name="Ask")).to_be_focused()


def test_what_a_screen_reader_hears(visit: Visit) -> None:
    me = visit()
    me.choose(LIGHT)
    me.page.evaluate("""() => {
        window.heard = [];
        const region = document.querySelector("[role=log]");
        const hear = (change) => heard.push(...[...change.addedNodes].map((node) => node.textContent));
        new MutationObserver((changes) => changes.forEach(hear)).observe(region, { childList: true, subtree: true });
    }""")
    me.asked("Describe the picture.")
    assert me.page.evaluate("heard") == [TRUTH[LIGHT], "End of the answer."]
    assert me.page.evaluate("document.querySelector('.told').closest('[aria-live], [role=log]')") is None


def test_light_and_dark(visit: Visit) -> None:
    def brightness(me: Visitor) -> int:
        return sum(
            map(int, re.findall(r"\d+", me.page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3])
        )

    dark, light = visit(color_scheme="dark"), visit(color_scheme="light")
    assert brightness(dark) < 150
    assert brightness(light) > 600
    light.page.get_by_role("button", name="Light or dark").click()
    assert brightness(light) == brightness(dark)
    light.page.reload()
    assert brightness(light) == brightness(dark)
    light.page.get_by_role("button", name="Light or dark").click()
    assert brightness(light) > 600


@pytest.mark.parametrize("width", [320, 390])
def test_on_a_phone(visit: Visit, width: int) -> None:
    me = visit(**{**PHONE, "viewport": {"width": width, "height": 700}})
    camera = me.page.get_by_label("Take a photo")
    assert camera.get_attribute("capture") == "environment"
    expect(me.page.get_by_text("Take a photo")).to_be_visible()
    assert me.too_wide() <= 0
    camera.set_input_files(PICTURES / LIGHT)
    expect(me.tiles).to_have_count(1)
    expect(me.question).not_to_be_focused()  # the keyboard would come up unasked
    expect(me.question).to_be_in_viewport(ratio=1)
    assert me.too_wide() <= 0
    me.asked("Describe the picture.")
    me.asked("Where is the green circle?")
    expect(me.turn.get_by_role("button", name="Copy")).to_be_in_viewport(ratio=1)
    expect(me.question).to_be_in_viewport(ratio=1)
    assert me.too_wide() <= 0
    for button in me.page.get_by_role("button").all():
        box = button.bounding_box()
        assert box is None or min(box["width"], box["height"]) >= 44, button.inner_text()


def test_no_motion_for_those_who_want_none(visit: Visit) -> None:
    me = visit(reduced_motion="reduce")
    moving = (
        "() => { const p = document.createElement('span'); p.className = 'pulse'; document.body.append(p);"
        " return getComputedStyle(p).animationName; }"
    )
    assert me.page.evaluate(moving) == "none"
    assert visit().page.evaluate(moving) == "pulse"


@pytest.mark.parametrize(
    ("device", "scheme"),
    [
        ("desktop", "light"),
        ("phone", "dark"),
        pytest.param("desktop", "dark", marks=pytest.mark.slow),
        pytest.param("phone", "light", marks=pytest.mark.slow),
    ],
)
def test_axe_finds_nothing(visit: Visit, device: str, scheme: str) -> None:
    me = visit(color_scheme=scheme, **(PHONE if device == "phone" else {}))
    expect(me.page.locator("#samples img").first).to_be_visible()
    faults = axe_faults(me.page)
    me.choose(STAR, LIGHT)
    faults += axe_faults(me.page)
    me.asked("Describe the picture.")
    me.page.route("**/v1/describe", lambda route: route.fulfill(status=503, json={}))
    me.ask("And now?")
    expect(me.problem).to_be_visible()
    faults += axe_faults(me.page)
    me.page.get_by_role("button", name="History").click()
    expect(me.page.get_by_role("dialog", name="History")).to_contain_text("1 answer")
    faults += axe_faults(me.page)
    me.page.keyboard.press("Escape")
    me.page.unroute("**/v1/describe")
    denied = {"error": {"type": "UnauthorizedError", "message": "The API key is missing."}}
    me.page.route("**/v1/describe", lambda route: route.fulfill(status=401, json=denied))
    me.page.get_by_role("button", name="Try again").click()
    expect(me.key_dialog).to_be_visible()
    faults += axe_faults(me.page)
    assert faults == []
