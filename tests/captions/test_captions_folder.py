"""What a run over a folder leaves: the right captions beside the right pictures, in a form that others load."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sample_pictures import PICTURES, TRUTH
from scenes import caption, draw_folder, rows, texts

from vlm import errors


def load(folder: Path, cache: Path) -> dict[str, Any]:
    """What the `datasets` library makes of a folder, in a process of its own."""
    script = Path(__file__).with_name("load_dataset.py")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache / "home")}
    done = subprocess.run(
        [sys.executable, script, folder, cache], env=env, capture_output=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_datasets_loads_the_right_captions(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "pictures"
    truth = draw_folder(folder, count)
    (folder / "plain" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    done = caption(folder, "--recursive", "--model", "demo")
    assert done.returncode == 101, done.stderr
    loaded = load(folder, tmp_path / "cache")
    assert {"image", "text", "texts", "prompts", "model", "content_hash"} < set(loaded["columns"])
    assert {row["path"] for row in loaded["rows"]} == truth.keys()
    for row in loaded["rows"]:
        with Image.open(folder / row["path"]) as picture:
            assert row["size"] == list(picture.size)
        assert row["text"] == row["texts"][0] == texts(folder)[row["path"]]
    right = sum(row["text"] == truth[row["path"]] for row in loaded["rows"])
    print(f"{right} of {count} captions right")
    assert right >= 0.95 * count - (1 if count < 100 else 0)


def test_a_fifth_of_the_files_is_broken(tmp_path: Path) -> None:
    truth = draw_folder(tmp_path, 24)
    broken = [tmp_path / f"broken-{number}.png" for number in range(6)]
    for number, path in enumerate(broken):
        path.write_bytes([b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM" + bytes(60), b"<svg/>"][number])
    done = caption(tmp_path, "--recursive", "--model", "demo")
    assert done.returncode == 106, done.stderr
    assert "vlm: broken-0.png: the file is empty" in done.stderr
    assert rows(tmp_path).keys() == truth.keys()
    failures = rows(tmp_path, "errors.jsonl")
    assert failures.keys() == {path.name for path in broken}
    assert Counter(row["error"] for row in failures.values()) == {"ImageError": 6}
    assert all(row["message"] for row in failures.values())
    told = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines())
    assert (told["pictures"], told["told now"], told["failed"], told["  ImageError"]) == ("30", "24", "6", "6")
    # As they are known, nobody asks about them again; the exit code still says how the folder is.
    again = caption(tmp_path, "--recursive", "--model", "demo")
    assert again.returncode == 106
    assert "opening" not in again.stderr
    assert "30 pictures, 24 of them told before, 6 failed before (--retry-errors" in again.stderr
    # Repaired, it is a new picture, and leaves errors.jsonl; one that is no more does too.
    broken[0].write_bytes((PICTURES / "blue-star.jpg").read_bytes())
    broken[1].unlink()
    assert caption(tmp_path, "--recursive", "--model", "demo").returncode == 104
    assert texts(tmp_path)[broken[0].name] == TRUTH["blue-star.jpg"]
    assert rows(tmp_path, "errors.jsonl").keys() == {path.name for path in broken[2:]}


def test_several_prompts_for_each_picture(tmp_path: Path) -> None:
    (tmp_path / "star.jpg").write_bytes((PICTURES / "blue-star.jpg").read_bytes())
    question = tmp_path / "question.txt"
    question.write_text("What colour is the star?\n")
    done = caption(tmp_path, "--prompt", "How many stars are there?", "--prompt-file", question, "--model", "demo")
    assert done.returncode == 0, done.stderr
    row = rows(tmp_path)["star.jpg"]
    assert row["prompts"] == ["How many stars are there?", "What colour is the star?"]
    assert row["texts"] == ["There is one star.", "The star is blue."]
    assert row["text"] == row["texts"][0]
    assert (row["model"], row["size_bytes"]) == ("demo", (tmp_path / "star.jpg").stat().st_size)
    # Another question has another answer; the one before is replaced.
    assert caption(tmp_path, "--model", "demo", "--max-new-tokens", 3).returncode == 0
    assert texts(tmp_path)["star.jpg"] == "There is a"
    assert json.loads(rows(tmp_path)["star.jpg"]["options"]) == {"max_new_tokens": 3}


def test_text_files_beside_the_pictures(tmp_path: Path) -> None:
    for name, source in (("a.jpg", "blue-star.jpg"), ("b.png", "two-hearts.png"), ("b.jpg", "night.jpg")):
        (tmp_path / name).write_bytes((PICTURES / source).read_bytes())
    (tmp_path / "a.txt").write_text("my own notes")
    done = caption(tmp_path, "--txt", "--model", "demo")
    assert done.returncode == 0, done.stderr
    assert re.search(r"left alone +1", done.stdout)
    assert (tmp_path / "a.txt").read_text() == "my own notes"
    assert (tmp_path / "b.png.txt").read_text() == TRUTH["two-hearts.png"] + "\n"
    assert (tmp_path / "b.jpg.txt").read_text() == TRUTH["night.jpg"] + "\n"
    # One that was removed comes back without the model; a picture that changed has its own replaced.
    (tmp_path / "b.png.txt").unlink()
    (tmp_path / "b.jpg").write_bytes((PICTURES / "tower.jpg").read_bytes())
    caption(tmp_path, "--txt", "--model", "demo")
    assert (tmp_path / "b.png.txt").read_text() == TRUTH["two-hearts.png"] + "\n"
    assert (tmp_path / "b.jpg.txt").read_text() == TRUTH["tower.jpg"] + "\n"


def test_which_pictures_are_taken(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", ".hidden.jpg", "c.txt", "in/d.jpg", "in/e.png", "thumbs/f.jpg", "in/.git/g.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((PICTURES / "blue-star.jpg").read_bytes())
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    (tmp_path / "in" / "loop").symlink_to(tmp_path)

    def taken(*words: object) -> set[str]:
        for name in ("metadata.jsonl", "in/metadata.jsonl"):
            (tmp_path / name).unlink(missing_ok=True)
        done = caption(*words, "--model", "demo", "--max-new-tokens", 1)
        assert done.returncode == 0, done.stderr
        return set(rows(tmp_path))

    everything = {"a.jpg", "b.jpg", "link.jpg", "in/d.jpg", "in/e.png", "thumbs/f.jpg"}
    assert taken(tmp_path) == {"a.jpg", "b.jpg", "link.jpg"}
    (tmp_path / "above" / "it").mkdir(parents=True)
    nothing = caption(tmp_path / "above", "--model", "demo")
    assert (nothing.returncode, "--recursive looks" in nothing.stderr) == (0, True)
    assert taken(tmp_path, "--recursive") == everything
    assert taken(tmp_path, "--recursive", "--exclude", "thumbs", "--include", "*.jpg") == everything - {
        "in/e.png", "thumbs/f.jpg",
    }  # fmt: skip
    assert taken(tmp_path, "--recursive", "--include", "in/*") == {"in/d.jpg", "in/e.png"}
    assert taken(tmp_path, "--recursive", "--limit", 2) == {"a.jpg", "b.jpg"}
    drawn = taken(tmp_path, "--recursive", "--sample", 3)
    assert len(drawn) == 3
    assert drawn == taken(tmp_path, "--recursive", "--shuffle", "--limit", 3)
    assert taken(tmp_path / "a.jpg", tmp_path / "in") == {"a.jpg", "in/d.jpg", "in/e.png"}
    assert taken(tmp_path / "in", "--out", tmp_path) == {"in/d.jpg", "in/e.png"}


def test_a_name_that_no_line_can_hold_is_a_failure_of_its_own(tmp_path: Path) -> None:
    star = (PICTURES / "blue-star.jpg").read_bytes()
    (tmp_path / "good.jpg").write_bytes(star)
    for name in (b"latin-\xe9.jpg", b"back\\slash.jpg"):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(star)
    for _ in range(2):
        done = caption(tmp_path, "--model", "demo")
        assert done.returncode == 102, done.stderr
        assert texts(tmp_path) == {"good.jpg": TRUTH["blue-star.jpg"]}
        failures = rows(tmp_path, "errors.jsonl")
        assert failures.keys() == {"latin-\\xe9.jpg", "back\\slash.jpg"}
        assert all("rename it" in row["message"] for row in failures.values())


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["gone"], errors.FolderError, "gone"),
        (["/dev/null"], errors.FolderError, "neither a folder nor a regular file"),
        (["."], errors.ProfileError, "did you mean"),
        ([".", "--prompt", " "], errors.OptionError, "prompt"),
        ([".", "--prompt-file", "gone.txt"], errors.OptionError, "gone.txt"),
        ([".", "--out", "in"], errors.FolderError, "beside or above"),
        ([".", "--limit", "0"], errors.OptionError, "limit"),
        ([".", "--top-p", "7"], errors.OptionError, "top_p"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    tmp_path: Path, words: list[str], kind: type[errors.RkvlmError], said: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "a.jpg").write_bytes((PICTURES / "blue-star.jpg").read_bytes())
    places = [str(tmp_path / word) if word in (".", "gone", "in", "gone.txt") else word for word in words]
    done = caption(*places, "--model", "dmeo" if words == ["."] else "demo")
    assert done.returncode == kind.exit_code, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "metadata.jsonl").exists()
