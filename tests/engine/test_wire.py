"""Frames from bytes that come in any pieces, right ones and wrong ones."""

from __future__ import annotations

import struct
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm.engine.messages import Ask, Begun, Cancel, Event, ImagePart, Request, TextPart, Told, Turn
from vlm.engine.wire import MAX_FRAME, Frames, WireError, frame

text = st.text(max_size=40)
parts = st.one_of(st.builds(TextPart, text), st.builds(ImagePart, st.binary(max_size=300)))
turns = st.lists(st.builds(Turn, text, st.lists(parts, max_size=3).map(tuple)), max_size=3).map(tuple)
numbers = st.integers(0, 2**40)
options = st.dictionaries(text, st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), text), max_size=4)
requests = st.one_of(st.builds(Ask, numbers, turns, options), st.builds(Cancel, numbers))
events = st.lists(st.one_of(st.builds(Begun, numbers), st.builds(Told, numbers, st.lists(text, max_size=5))))


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


@settings(deadline=None)
@given(st.lists(requests, max_size=5), st.lists(st.integers(0, 10_000), max_size=9))
def test_requests_come_out_as_they_went_in(sent: list[Request], at: list[int]) -> None:
    frames: Frames[Request] = Frames(Request)
    data = b"".join(frame(request) for request in sent)
    assert [request for piece in cut(data, at) for request in frames.feed(piece)] == sent


@settings(deadline=None)
@given(st.lists(events, max_size=5), st.lists(st.integers(0, 10_000), max_size=9))
def test_events_come_out_as_they_went_in(sent: list[list[Event]], at: list[int]) -> None:
    frames: Frames[list[Event]] = Frames(list[Event])
    data = b"".join(frame(batch) for batch in sent)
    assert [batch for piece in cut(data, at) for batch in frames.feed(piece)] == sent


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_anything_else_is_a_wire_error_and_nothing_worse(pieces: list[bytes]) -> None:
    frames: Frames[Request] = Frames(Request)
    with suppress(WireError):
        for piece in pieces:
            assert all(isinstance(request, Request) for request in frames.feed(piece))


@settings(deadline=None)
@given(requests, st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_a_wire_error_or_another_message(request: Request, at: int, value: int) -> None:
    data = frame(request)
    data[at % len(data)] = value
    with suppress(WireError):
        assert all(isinstance(got, Request) for got in Frames[Request](Request).feed(bytes(data)))


@settings(deadline=None)
@given(events)
def test_the_end_in_the_middle_of_a_frame_gives_nothing(batch: list[Event]) -> None:
    data = bytes(frame(batch))
    for end in range(len(data)):
        assert list(Frames[list[Event]](list[Event]).feed(data[:end])) == []


def test_a_frame_that_is_too_long_is_refused_before_it_comes() -> None:
    with pytest.raises(WireError, match=str(MAX_FRAME)):
        list(Frames[Request](Request).feed(struct.pack(">I", MAX_FRAME + 1)))


def test_a_message_of_another_kind_is_refused() -> None:
    with pytest.raises(WireError, match="no message"):
        list(Frames[list[Event]](list[Event]).feed(bytes(frame(Cancel(1)))))
