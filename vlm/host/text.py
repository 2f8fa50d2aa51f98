"""Text to token ids and back, with the `tokenizers` library.

Going back is done token by token, in bytes: a token may end inside a UTF-8 character, and the runtime's callback gives
what there is and says so (state WAITING).
"""

from __future__ import annotations

import codecs
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from vlm.errors import ModelLoadError


class Piece(NamedTuple):
    """The bytes that one token adds to the answer; `whole` is False when they end inside a character."""

    data: bytes
    whole: bool


class Text:
    """A model's tokenizer. Raises ModelLoadError when tokenizer.json cannot be used."""

    def __init__(self, path: Path) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as exc:
            raise ModelLoadError(f"{path} is not a tokenizer that the tokenizers library reads: {exc}") from exc
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(i for i, token in self._added.items() if token.special)
        self._steps = _decoder_steps(self._tokenizer)
        kinds = [step["type"] for step in self._steps]
        self._by_byte = "ByteLevel" in kinds
        self._by_fallback = "ByteFallback" in kinds
        self._cached: dict[int, bytes] = {}

    def encode(self, text: str, *, start: bool) -> list[int]:
        """Token ids of `text`; special tokens written out in it are recognised.

        start: the text begins a context, so that the tokenizer may put its own first token (BOS) before it; one that
        is written out there already is not doubled.
        """
        ids = self._tokenizer.encode(text, add_special_tokens=start).ids
        if start and len(ids) > 1 and ids[0] == ids[1] and ids[0] in self._special:
            ids = ids[1:]
        return list(ids)

    def stream(self, *, skip_special: bool) -> TextStream:
        """Start turning one answer's tokens into text. skip_special: special tokens give no text."""
        return TextStream(self, skip_special)

    def is_special(self, token: int) -> bool:
        """Whether the tokenizer counts the token as special (a tag, not text)."""
        return token in self._special

    def bytes_of(self, token: int) -> bytes | None:
        """The bytes of a token by itself; None where this tokenizer's tokens have text only in their company."""
        if not (self._by_byte or self._by_fallback):
            return None
        found = self._cached.get(token)
        if found is None:
            found = self._cached[token] = self._bytes_of(token)
        return found

    def _bytes_of(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].content.encode()
        name = self._tokenizer.id_to_token(token)
        if name is None:  # a vocabulary padded to a round size has ids without a token
            return b""
        if self._by_byte:
            table = _byte_of_char()
            return bytes(table[c] for c in name) if all(c in table for c in name) else name.encode()
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes([int(name[3:5], 16)])
        for step in self._steps:
            if step["type"] == "Replace" and "String" in step["pattern"]:
                name = name.replace(step["pattern"]["String"], step["content"])
        return name.encode()

    @property
    def strip_start(self) -> int:
        """How many spaces the decoder takes off an answer's beginning."""
        return next((int(s["start"]) for s in self._steps if s["type"] == "Strip" and s["content"] == " "), 0)

    def decode(self, ids: list[int], *, skip_special: bool) -> str:
        """The text of a run of tokens, as the library has it."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=skip_special))


class TextStream:
    """Turns one answer's tokens into bytes, one at a time. All pieces together are the whole answer's UTF-8."""

    def __init__(self, text: Text, skip_special: bool) -> None:
        self._text = text
        self._skip = skip_special
        self._to_strip = text.strip_start
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ids: list[int] = []
        self._done = 0  # how many of _ids have been given out

    def push(self, token: int) -> Piece:
        """What one more token adds. Empty bytes are possible: a special token, or a character not complete yet."""
        if self._skip and self._text.is_special(token):
            return Piece(b"", whole=self._is_whole())
        data = self._text.bytes_of(token)
        if data is None:
            return self._push_in_company(token)
        if self._to_strip:
            leading = len(data) - len(data.lstrip(b" "))
            data = data[min(leading, self._to_strip) :]
            self._to_strip = 0
        self._utf8.decode(data)
        return Piece(data, whole=self._is_whole())

    def _is_whole(self) -> bool:
        return not self._utf8.getstate()[0] and len(self._ids) == self._done

    def _push_in_company(self, token: int) -> Piece:
        """For tokenizers whose tokens depend on their neighbours: what the text grows by when the token is added.

        Only the tokens since the last given out are decoded, with those before them that the text may lean on.
        """
        self._ids.append(token)
        before = self._text.decode(self._ids[: self._done], skip_special=self._skip)
        after = self._text.decode(self._ids, skip_special=self._skip)
        if after.endswith("\ufffd"):
            return Piece(b"", whole=False)
        self._ids, self._done = self._ids[self._done :], len(self._ids) - self._done
        return Piece(after[len(before) :].encode(), whole=True)


def _decoder_steps(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """What the tokenizer's decoder does, step by step, as tokenizer.json has it."""
    if tokenizer.decoder is None:
        return []
    decoder = json.loads(tokenizer.decoder.__getstate__())
    return list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]


@cache
def _byte_of_char() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for.

    Fact (GPT-2's encoding): bytes that print stand for themselves, the others, in order, for U+0100 and on.
    """
    prints = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in prints]
    return {chr(b): b for b in prints} | {chr(0x100 + i): b for i, b in enumerate(others)}
