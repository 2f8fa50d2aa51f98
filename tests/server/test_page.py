"""The page at /, used as people use it: in Chromium, over the real service with the demo model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable

import pytest
from page_rig import HEARTS, KEY, LIGHT, STAR, Visit, picture
from playwright.sync_api import Route, expect
from sample_pictures import TRUTH
from service_rig import Served

SLOW = "[id=a][tokens=200][pace=25]"


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


def test_a_question_asked_before_the_server_has_said_what_it_has(visit: Visit) -> None:
    me = visit()
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    me.page.route("**/v1/info", hold)
    me.page.reload()
    me.choose(HEARTS)
    me.page.get_by_role("button", name="Describe the picture.").click()
    expect(me.page.get_by_role("article")).to_have_count(0)
    me.page.route("**/v1/info", lambda route: route.continue_())
    while held:
        held.pop().continue_()
    expect(me.told).to_have_text(TRUTH[HEARTS])


def test_the_figures_of_an_answer(visit: Visit) -> None:
    me = visit()
    me.drop(picture(STAR) + b"asked about for the first time", "new.jpg", "image/jpeg")
    expect(me.tiles).to_have_count(1)
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
    me.asked("How big is it?")
    expect(me.turn.get_by_role("figure")).to_contain_text("Picture encoded before")
    expect(me.turn.get_by_role("figure")).not_to_contain_text("Encode ")
    expect(me.turn.locator("rect.encode")).to_have_count(0)
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


@pytest.mark.parametrize(
    ("limit", "most", "why"),
    [
        ("image_bytes", 15_000, "because the file is larger than the server takes"),
        ("pixels", 200_000, "a JPEG of 512 × 366, because it has more pixels than the server takes"),  # noqa: RUF001
    ],
)
def test_a_picture_larger_than_the_server_takes(visit: Visit, limit: str, most: int, why: str) -> None:
    me = visit()

    def less(route: Route) -> None:
        told = route.fetch().json()
        assert told["limits"][limit] > most
        told["limits"][limit] = most
        route.fulfill(json=told)

    me.page.route("**/v1/info", less)
    me.page.reload()
    large = picture("photo-sized.jpg")
    assert len(large) > 15_000
    me.choose("photo-sized.jpg")
    assert me.asked("How many shapes are there?") == "There are two shapes."
    expect(me.tiles).to_contain_text(why)
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
