"""A person at the page: a browser of its own, what was asked of the network, and what the page complained of."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect
from sample_pictures import PICTURES

LIGHT, HEARTS, STAR = "traffic-light.jpg", "two-hearts.png", "blue-star.jpg"
KEY = "vlm-of-the-test"
EXPECTED_COMPLAINT = re.compile(r"Failed to load resource: (the server responded with a status of|net::ERR_)")

# Chromium shows a debugger no files of a form, so that the page's own fetch is listened to.
TAP = """
window.sent = [];
const fetched = window.fetch;
window.fetch = async (address, request) => {
    const form = {};
    for (const [name, value] of request?.body ?? []) {
        if (typeof value === "string") { form[name] = value; continue; }
        const digest = await crypto.subtle.digest("SHA-256", await value.arrayBuffer());
        form[name] = [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
        form[`${name}_bytes`] = String(value.size);
    }
    if (request?.body) window.sent.push(form);
    return fetched(address, request);
};
"""


class Visitor:
    """One visit to the page. `page` is Playwright's; the rest is what a person does and sees."""

    def __init__(self, browser: Browser, address: str, **context: Any) -> None:
        self.address = address
        self.context = browser.new_context(**context)
        self.context.set_default_timeout(15_000)
        self.page: Page = self.context.new_page()
        self.addresses: list[str] = []
        self.complaints: list[str] = []
        self.context.on("request", lambda request: self.addresses.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.add_init_script(TAP)
        self.page.goto(address)
        self.question: Locator = self.page.get_by_role("textbox", name="Your question")

    def close(self) -> None:
        """Leave. Nothing may have been asked of anyone but the server, and nothing have gone wrong in the page."""
        self.context.close()
        own = (self.address, "blob:", "data:")
        assert [address for address in self.addresses if not address.startswith(own)] == []
        assert [words for words in self.complaints if not EXPECTED_COMPLAINT.match(words)] == []

    def choose(self, *names: str) -> None:
        """Add pictures by the file chooser."""
        self.page.get_by_label(re.compile("Choose a picture|Add another")).set_input_files(
            [PICTURES / n for n in names]
        )
        expect(self.tiles.filter(has_text=names[-1])).to_have_count(1)

    def drop(self, data: bytes, name: str, kind: str, event: str = "drop") -> None:
        """Drop a file on the page, or paste it."""
        script = """([data, name, type, event]) => {
            const carried = new DataTransfer();
            carried.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, { type }));
            const init = { bubbles: true, cancelable: true, dataTransfer: carried, clipboardData: carried };
            const target = document.querySelector("main");
            if (event === "paste") target.dispatchEvent(new ClipboardEvent("paste", init));
            else for (const step of ["dragenter", "dragover", "drop"]) target.dispatchEvent(new DragEvent(step, init));
        }"""
        self.page.evaluate(script, [base64.b64encode(data).decode(), name, kind, event])

    def enter_key(self, key: str) -> None:
        self.key_dialog.get_by_label("API key", exact=True).fill(key)
        self.page.keyboard.press("Enter")

    def ask(self, question: str) -> None:
        expect(self.page.locator("#model")).not_to_be_empty()
        self.question.fill(question)
        self.question.press("Enter")

    def asked(self, question: str) -> str:
        """Ask, and wait for the whole answer."""
        self.ask(question)
        expect(self.turn.get_by_role("button", name="Copy")).to_be_visible()
        return self.told.inner_text().strip()

    @property
    def tiles(self) -> Locator:
        return self.page.locator("#pictures > li")

    @property
    def key_dialog(self) -> Locator:
        return self.page.get_by_role("dialog", name="This server needs an API key")

    @property
    def turn(self) -> Locator:
        """The newest question with its answer."""
        return self.page.get_by_role("article").last

    @property
    def told(self) -> Locator:
        return self.turn.locator(".told")

    @property
    def problem(self) -> Locator:
        return self.page.get_by_role("alert")

    @property
    def notice(self) -> Locator:
        return self.page.locator("#notice")

    def sent(self) -> list[dict[str, str]]:
        """The forms sent so far: each text, and of the (last) picture its SHA-256 and its size."""
        forms: list[dict[str, str]] = self.page.evaluate("window.sent")
        return forms

    def too_wide(self) -> int:
        """By how many pixels the page is wider than the window."""
        wide: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return wide


Visit = Callable[..., Visitor]
"""The fixture `visit`: opens the page of a service, the demo's unless another is named, in a browser context."""


def picture(name: str) -> bytes:
    return Path(PICTURES / name).read_bytes()
