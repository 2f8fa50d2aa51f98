"""The page at /, used as people use it: in Chromium, over the real service with the demo model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator

import pytest
from browser import axe_faults, chromium
from page_rig import Visitor, picture
from playwright.sync_api import Browser, Route, expect
from sample_pictures import PICTURES, TRUTH
from service_rig import Served, serve, standin_words

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
KEY = "vlm-of-the-test"
SLOW = "[id=a][tokens=200][pace=25]"
LIGHT, HEARTS, STAR = "traffic-light.jpg", "two-hearts.png", "blue-star.jpg"
Visit = Callable[..., Visitor]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def slow_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The stand-in, which tells as slowly as it is asked to; one question at a time, and only with the key."""
    key = f"sha256:{hashlib.sha256(KEY.encode()).hexdigest()}"
    words = standin_words(tmp_path_factory.mktemp("model"), "1.3.0")
    with serve(*words, "--in-flight", "1", VLM_API_KEYS=key) as served:
        yield served


@pytest.fixture
def visit(browser: Browser, demo_service: Served) -> Iterator[Visit]:
    visitors: list[Visitor] = []

    def enter(served: Served = demo_service, **context: object) -> Visitor:
        visitors.append(Visitor(browser, served.url, **context))
        return visitors[-1]

    yield enter
    for visitor in visitors:
        visitor.close()


def streaming(events: str) -> Callable[[Route], None]:
    return lambda route: route.fulfill(body=events, content_type="text/event-stream")


def test_drop_a_picture_ask_and_ask_again(visit: Visit) -> None:
    me = visit()
    me.drop(picture(HEARTS), HEARTS, "image/png")
    expect(me.tiles).to_have_count(1)
    me.page.get_by_role("button", name="Describe the picture.").click()
    expect(me.told).to_have_text(TRUTH[HEARTS])
    assert me.asked("How big is the red heart?") == "The red heart is large."
    first, second = me.sent()
    assert first["image"] == second["image"] == hashlib.sha256(picture(HEARTS)).hexdigest()
    assert "history" not in first
    assert json.loads(second["history"]) == [
        {"role": "user", "content": "Describe the picture."},
        {"role": "assistant", "content": TRUTH[HEARTS]},
    ]


def test_the_figures_of_an_answer(visit: Visit) -> None:
    me = visit()
    me.choose(STAR)
    me.asked("What colour is the star?")
    legend = me.turn.get_by_role("figure").inner_text()
    for words in (
        r"Encode\s[\d.]+ m?s",
        r"First token\s[\d.]+ m?s",
        r"Telling\s[\d.]+ m?s",
        r"\d+ tokens",
        r"a second",
    ):
        assert re.search(words, legend), legend
    widths = [float(part.get_attribute("width") or 0) for part in me.turn.locator("rect").all()]
    assert len(widths) >= 3
    assert all(width > 0 for width in widths)
    figures = dict.fromkeys(("encode_ms", "ttft_ms", "prompt_tokens", "tokens", "tokens_per_second", "queue_ms"))
    done = json.dumps({"text": "It", "finish_reason": "length", **figures})
    me.page.route("**/v1/describe", streaming(f'event: token\ndata: {{"text": "It"}}\n\nevent: done\ndata: {done}\n\n'))
    assert me.asked("And now?") == "It"
    expect(me.turn).to_contain_text("Ended at the longest answer allowed.")
    legend = me.turn.get_by_role("figure").inner_text()
    assert re.fullmatch(r"Telling\s[\d.]+ ms\s+Picture encoded before", legend)  # nothing that was not said


def test_an_answer_is_told_as_it_comes_and_stopped(visit: Visit, slow_service: Served) -> None:
    me, other = visit(slow_service), visit(slow_service)
    for one in (me, other):
        one.enter_key(KEY)
        one.choose(STAR)
    me.page.evaluate("""() => {
        window.lengths = new Set();
        const look = () => lengths.add(document.querySelector(".told")?.textContent.length ?? 0);
        new MutationObserver(look).observe(document.querySelector("#turns"), { childList: true, subtree: true });
    }""")
    me.ask(SLOW)
    expect(me.told).to_contain_text("a:9 ")
    other.ask("[id=<b>b</b>][tokens=2]")
    expect(other.turn).to_contain_text("In line, place 1")
    me.page.keyboard.press("Escape")
    expect(me.turn).to_contain_text("Stopped.")
    kept = me.told.inner_text()
    assert re.fullmatch(r"a:0 a:1 (a:\d+ )+", kept)
    assert "a:199" not in kept
    assert me.page.evaluate("lengths.size") >= 5  # it was seen growing
    expect(other.told).to_have_text("<b>b</b>:0 <b>b</b>:1 ")  # the model was free at once; text is never markup
    me.ask(SLOW)
    expect(me.told).to_contain_text("a:1 ")
    me.page.get_by_role("button", name="Stop").click()
    expect(me.turn).to_contain_text("Stopped.")
    me.asked("And then?")
    past = json.loads(me.sent()[-1]["history"])
    assert past[1] == {"role": "assistant", "content": kept}  # the model is told what was told
    assert me.page.get_by_role("article").first.locator(".told").inner_text() == kept


def test_the_key_is_asked_for(visit: Visit, slow_service: Served) -> None:
    me = visit(slow_service)
    me.enter_key("wrong")
    expect(me.key_dialog).to_contain_text("The key was not accepted.")
    me.key_dialog.get_by_label("Remember it in this browser").check()
    me.enter_key(KEY)
    expect(me.page.get_by_text("demo", exact=True)).to_be_visible()
    me.page.reload()
    me.choose(STAR)
    assert me.asked("[id=d][tokens=2]") == "d:0 d:1"


def test_several_pictures_in_their_order(visit: Visit) -> None:
    me = visit()
    me.choose(STAR)
    me.choose(LIGHT)
    assert me.asked("Which picture has more shapes?") == "The second picture has more shapes, three against one."
    me.choose(HEARTS)  # a new picture is a new conversation
    expect(me.page.get_by_role("article")).to_have_count(0)
    me.choose(STAR)
    me.page.get_by_role("button", name=f"Take off {HEARTS}").click()
    assert me.asked("") == TRUTH[STAR]  # without a question, a description


def test_samples_and_pasting(visit: Visit) -> None:
    me = visit()
    me.page.get_by_role("button", name=f"Sample: {LIGHT}").click()
    expect(me.tiles).to_have_count(1)
    me.drop(picture(STAR), "image.png", "image/png", "paste")
    expect(me.tiles).to_have_count(2)
    body_order = [me.tiles.nth(at).get_by_role("img").get_attribute("alt") for at in range(2)]
    assert body_order == [f"Picture 1: {LIGHT}", "Picture 2: image.png"]


def test_files_that_are_no_pictures(visit: Visit) -> None:
    me = visit()
    me.drop(b"Dear diary", "notes.txt", "text/plain")
    expect(me.notice).to_have_text("notes.txt is not a picture. Choose a JPEG, PNG or WebP file.")
    me.drop(b"\xff\xd8\xff\xe0 broken", "broken.jpg", "image/jpeg")
    expect(me.tiles).to_contain_text("This browser cannot show this JPG file.")
    me.ask("What is it?")
    expect(me.problem).to_contain_text("Choose another picture.")
    expect(me.question).to_have_value("What is it?")  # ready to be asked of another picture
    me.page.get_by_role("button", name="Take off broken.jpg").click()
    me.choose(STAR)
    assert me.asked("What colour is the star?") == "The star is blue."


def test_a_busy_server_and_a_lost_one(visit: Visit) -> None:
    me = visit()
    me.choose(STAR)
    busy = {"error": {"type": "EngineQueueFullError", "message": "Too many questions wait already."}}
    where = "**/v1/describe"
    me.page.route(where, lambda route: route.fulfill(status=503, json=busy, headers={"Retry-After": "7"}))
    me.ask("What colour is the star?")
    expect(me.problem).to_contain_text("Too many questions wait already. Try again in about 7 s.")
    me.page.unroute(where)
    me.context.set_offline(True)
    me.page.get_by_role("button", name="Try again").click()
    expect(me.problem).to_contain_text("This device is offline.")
    me.context.set_offline(False)
    me.page.route(where, lambda route: route.abort("connectionrefused"))
    me.page.get_by_role("button", name="Try again").click()
    expect(me.problem).to_contain_text("The server does not answer.")
    told = 'event: token\ndata: {"text": "The"}\n\n'
    crash = 'event: error\ndata: {"error": {"type": "EngineCrashedError", "message": "The model stopped."}}\n\n'
    for end, words in {"": "The connection ended before the answer did.", crash: "The model stopped."}.items():
        me.page.unroute(where)
        me.page.route(where, streaming(told + end))
        me.page.get_by_role("button", name="Try again").click()
        expect(me.problem).to_contain_text(words)
        assert me.told.inner_text() == "The"
    me.page.unroute(where)
    me.page.get_by_role("button", name="Try again").click()
    expect(me.told).to_have_text("The star is blue.")
    expect(me.page.get_by_role("article")).to_have_count(1)


def test_a_picture_larger_than_the_server_takes(visit: Visit) -> None:
    me = visit()

    def less(route: Route) -> None:
        told = route.fetch().json()
        told["limits"]["image_bytes"] = 15_000
        route.fulfill(json=told)

    me.page.route("**/v1/info", less)
    me.page.reload()
    large = picture("photo-sized.jpg")
    assert len(large) > 15_000
    me.choose("photo-sized.jpg")
    assert me.asked("How many shapes are there?")
    expect(me.tiles).to_contain_text("because the file is larger than the server takes")
    (question,) = me.sent()
    assert question["image"] != hashlib.sha256(large).hexdigest()
    assert int(question["image_bytes"]) <= 15_000


def test_history_stays_in_the_browser(visit: Visit) -> None:
    me = visit()
    me.choose(HEARTS)
    me.asked("Describe the picture.")
    drawer = me.page.get_by_role("dialog", name="History")
    me.page.get_by_role("button", name="History").click()
    expect(drawer).to_contain_text("1 answer")
    me.page.reload()
    expect(me.page.get_by_role("article")).to_have_count(0)
    me.page.get_by_role("button", name="History").click()
    drawer.get_by_role("button", name=re.compile("Describe the picture.*1 answer")).click()
    expect(me.told).to_have_text(TRUTH[HEARTS])
    assert me.asked("How big is the red heart?") == "The red heart is large."
    me.page.get_by_role("button", name="New").click()
    expect(me.page.get_by_role("article")).to_have_count(0)
    me.page.get_by_role("button", name="History").click()
    expect(drawer).to_contain_text("2 answers")
    me.page.once("dialog", lambda dialog: dialog.accept())
    drawer.get_by_role("button", name="Clear all").click()
    expect(drawer).to_contain_text("Nothing yet.")
    assert me.page.evaluate("indexedDB.databases()") == [{"name": "rkvlm", "version": 1}]
    me.page.reload()
    me.page.get_by_role("button", name="History").click()
    expect(drawer).to_contain_text("Nothing yet.")


def test_a_browser_that_keeps_nothing(visit: Visit, slow_service: Served) -> None:
    me = visit(slow_service, color_scheme="light")
    me.page.add_init_script("""for (const name of ["localStorage", "sessionStorage", "indexedDB"])
        Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });""")
    me.page.reload()
    me.enter_key(KEY)
    me.page.get_by_role("button", name="Light or dark").click()
    expect(me.page.locator("html")).to_have_attribute("data-theme", "dark")
    me.choose(STAR)
    assert me.asked("[id=e][tokens=2]") == "e:0 e:1"
    me.page.get_by_role("button", name="History").click()
    expect(me.page.get_by_role("dialog", name="History")).to_contain_text("This browser lets the page keep nothing")


def test_copying_an_answer_even_where_browsers_hide_the_clipboard(visit: Visit) -> None:
    me = visit(permissions=["clipboard-read", "clipboard-write"])
    me.choose(STAR)
    me.asked("What colour is the star?")
    copy = me.turn.get_by_role("button")
    copy.click()
    expect(copy).to_have_text("Copied")
    assert me.page.evaluate("navigator.clipboard.readText()") == "The star is blue."
    me.page.evaluate("navigator.clipboard.writeText('')")
    me.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")  # as over plain HTTP
    expect(copy).to_have_text("Copy")
    copy.click()
    me.question.focus()
    me.page.keyboard.press("Control+V")
    expect(me.question).to_have_value("The star is blue.")


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
