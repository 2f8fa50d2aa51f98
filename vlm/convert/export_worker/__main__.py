"""Exports a model of its authors, as transformers loads it, to ONNX: `python vlm/convert/export JOB.json`.

Runs in the converter's own environment, and so imports nothing of rkvlm. The job is a JSON object:

    part            "vision": the vision tower and its projector; "words": the language model
    model           the directory of the model: config.json, weights
    out             the directory to write to
    size            [height, width] of the encoder's input in pixels, for the vision part
    weights         "fp32", "fp16", "int8" or "int4": how the words' weights are stored
    external_bytes  weights above this go into a file of their own beside the .onnx file, as they have to above 2 GB
    reply           where to say how it went: {"files": [names], "difference": largest, "cosine": smallest, ...} of ONNX
                    Runtime against PyTorch on the same random input, or {"error": what, in words}
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from families import Refused, load


def main(job_file: str) -> int:
    """Do the job; the exit code says whether it worked."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    try:
        reply, code = export(job), 0
    except Refused as exc:
        reply, code = {"error": str(exc)}, 1
    except Exception as exc:
        traceback.print_exc()
        reply, code = {"error": f"{type(exc).__name__}: {exc}"}, 1
    Path(job["reply"]).write_text(json.dumps(reply), encoding="utf-8")
    return code


def export(job: dict[str, Any]) -> dict[str, Any]:
    """Write the files of one part. Raises Refused, and whatever torch and transformers raise."""
    family, model = load(Path(job["model"]))
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    if job["part"] == "vision":
        from towers import export_tower

        return export_tower(family, model, out, job["size"], job["external_bytes"])
    from words import export_words

    return export_words(family, model, Path(job["model"]), out, job["weights"], job["external_bytes"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
