"""Joining UTF-8 and cutting at stop strings, whatever the pieces are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vlm.rkllm.text import StopScanner, Utf8Joiner


def cut(data, sizes: list[int]) -> list:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


@given(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.integers(0, 6)))
def test_bytes_in_any_pieces_give_the_text(text: str, sizes: list[int]) -> None:
    joiner = Utf8Joiner()
    assert "".join(joiner.feed(p) for p in cut(text.encode(), sizes)) + joiner.flush() == text


@given(st.binary(), st.lists(st.integers(0, 4)))
def test_any_bytes_give_some_text(data: bytes, sizes: list[int]) -> None:
    joiner = Utf8Joiner()
    text = "".join(joiner.feed(p) for p in cut(data, sizes)) + joiner.flush()
    assert isinstance(text, str)
    text.encode()


def test_a_character_sent_anew_replaces_its_beginning() -> None:
    joiner = Utf8Joiner()
    assert [joiner.feed(b) for b in (b"a\xe4", b"\xe4\xbd", b"\xe4\xbd\xa0!")] == ["a", "", "你!"]


letters = st.text("abc", max_size=30)


@given(letters, st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 5)))
def test_stop_strings_in_any_pieces(text: str, stops: list[str], sizes: list[int]) -> None:
    scanner, given_out = StopScanner(stops), ""
    for end, piece in enumerate(cut(text, sizes)):
        given_out += scanner.feed(piece)
        seen = "".join(cut(text, sizes)[: end + 1])
        if not scanner.stopped:
            held = seen[len(given_out) :]
            assert seen.startswith(given_out)
            assert not held or any(s.startswith(held) and s != held for s in stops)  # nothing is held without need
    given_out += scanner.flush()
    if any(s in text for s in stops):
        assert scanner.stopped
        assert text.startswith(given_out)
        assert not any(s in given_out for s in stops)
        assert any(text[len(given_out) :].startswith(s) for s in stops)
    else:
        assert given_out == text
