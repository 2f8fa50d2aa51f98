"""Token ids to bytes, for the kinds of tokenizer that models come with; the whole must be what the library decodes."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_model
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from vlm.errors import ModelLoadError
from vlm.host.text import Text

SAMPLE = "Héllo wörld, 世界 🙂! <|im_end|>  two  spaces\n\ttab"


def saved(tokenizer: Tokenizer, path: Path) -> Text:
    tokenizer.save(str(path / "tokenizer.json"))
    return Text(path / "tokenizer.json")


def sentencepiece_like() -> Tokenizer:
    """Llama 2's kind: spaces are U+2581, unknown characters fall back to bytes."""
    letters = ["\u2581", *"helowrdtwspac,!nib\n\t", "\u2581w", "\u2581he"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{b:02X}>": 3 + b for b in range(256)}
    vocab |= {piece: 259 + i for i, piece in enumerate(letters)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=[("\u2581", "w")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def wordpiece_like() -> Tokenizer:
    """A token's text depends on what stands before it: a space, or none after ##."""
    vocab = {w: i for i, w in enumerate(["[UNK]", "[PAD]", "un", "##break", "##able", "glass", "é", "the"])}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]"])
    return tokenizer


def test_byte_level_piece_by_piece(tmp_path: Path) -> None:
    text = saved(tiny_model.byte_tokenizer(), tmp_path)
    ids = text.encode(SAMPLE, start=True)
    stream = text.stream(skip_special=False)
    pieces = [stream.push(i) for i in ids]
    assert b"".join(p.data for p in pieces).decode() == SAMPLE
    seen = b""
    for piece in pieces:
        seen += piece.data
        try:
            seen.decode()
            whole = True
        except UnicodeDecodeError:
            whole = False
        assert piece.whole is whole
    assert [len(p.data) for p in pieces].count(1) > len(pieces) - 3


def test_special_tokens_are_left_out_if_asked(tmp_path: Path) -> None:
    text = saved(tiny_model.byte_tokenizer(), tmp_path)
    ids = text.encode("a<img>b<|im_end|>", start=True)
    assert ids == [97, tiny_model.IMG, 98, tiny_model.IM_END]
    stream = text.stream(skip_special=True)
    assert [stream.push(i).data for i in ids] == [b"a", b"", b"b", b""]


@pytest.mark.parametrize("skip", [True, False])
def test_byte_fallback(skip: bool, tmp_path: Path) -> None:
    tokenizer = sentencepiece_like()
    text = saved(tokenizer, tmp_path)
    ids = text.encode("hello wörld 世 w!", start=False)
    assert any(tokenizer.id_to_token(i).startswith("<0x") for i in ids)
    ids.append(2)
    stream = text.stream(skip_special=skip)
    pieces = [stream.push(i) for i in ids]
    said = b"".join(p.data for p in pieces)
    assert said.decode() == tokenizer.decode(ids, skip_special_tokens=skip)
    assert said.startswith(b"hello"), "the space that stands for a beginning is not the answer's"
    assert not all(p.whole for p in pieces)
    assert pieces[-1].whole
    again = text.stream(skip_special=skip)
    assert again.push(ids[0]).data == pieces[0].data, "the next answer loses its first space too"


def test_first_token_is_put_once(tmp_path: Path) -> None:
    text = saved(sentencepiece_like(), tmp_path)
    assert text.encode("hello", start=True)[0] == 1
    assert text.encode("hello", start=False)[0] != 1
    assert text.encode("<s>hello", start=True).count(1) == 1


def test_tokens_with_text_only_in_company(tmp_path: Path) -> None:
    tokenizer = wordpiece_like()
    text = saved(tokenizer, tmp_path)
    ids = [*text.encode("the unbreakable glass", start=True), 1, *text.encode("é glass the", start=False)]
    stream = text.stream(skip_special=True)
    pieces = [stream.push(i) for i in ids]
    assert b"".join(p.data for p in pieces).decode() == tokenizer.decode(ids)
    assert b"".join(p.data for p in pieces[:4]) == b"the unbreakable"
    assert all(p.whole for p in pieces)


def test_ids_beyond_the_vocabulary_have_no_text(tmp_path: Path) -> None:
    text = saved(tiny_model.byte_tokenizer(), tmp_path)
    assert text.stream(skip_special=True).push(999_999).data == b""


def test_a_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json is not a tokenizer"):
        Text(tmp_path / "tokenizer.json")
