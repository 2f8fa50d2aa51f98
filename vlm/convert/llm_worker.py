"""Calls rkllm-toolkit: `python llm_worker.py JOB.json`.

Runs in the Python that has the toolkit, and so imports nothing of rkvlm. The job is a JSON object:

    calls       [[name, [positional], {named}], ...] of rkllm.api.RKLLM, in order. get_logits is given a list of windows
                of token ids, and called for each; the others are called as they stand
    cuda        whether a GPU has to be there
    reply       where to say how it went: {"replies": [what chat_model said], "losses": [negative log-likelihood of each
                token of the windows but their first ones]} or {"error": what, in words}

What the toolkit prints goes where stdout and stderr go.
"""

from __future__ import annotations

import inspect
import json
import sys
import traceback
from pathlib import Path
from typing import Any


class StepError(Exception):
    """What could not be done, in words."""


def main(job_file: str) -> int:
    """Do the job; the exit code says whether it worked."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    try:
        reply, code = carry_out(job), 0
    except StepError as exc:
        reply, code = {"error": str(exc)}, 1
    except Exception as exc:
        traceback.print_exc()
        reply, code = {"error": f"rkllm-toolkit says: {type(exc).__name__}: {' '.join(str(exc).split())[-400:]}"}, 1
    Path(job["reply"]).write_text(json.dumps(reply), encoding="utf-8")
    return code


def carry_out(job: dict[str, Any]) -> dict[str, Any]:
    """Make the job's calls. Raises StepError, and whatever the toolkit raises."""
    if job["cuda"]:
        import torch

        if not torch.cuda.is_available():
            raise StepError(f"device is cuda, but the PyTorch of {sys.executable} sees no GPU")
    from rkllm.api import RKLLM

    llm = RKLLM()
    check_signatures(llm, job["calls"])
    replies: list[str] = []
    losses: list[float] = []
    for name, positional, named in job["calls"]:
        if name == "get_logits":
            for window in positional[0]:
                losses += losses_of(llm, window)
            continue
        result = getattr(llm, name)(*positional, **named)
        if name == "chat_model":
            replies.append(str(result))
        elif result != 0:
            raise StepError(f"{name} failed with code {result}")
    return {"replies": replies, "losses": losses}


def check_signatures(llm: Any, calls: list[Any]) -> None:
    """Refuse before the long part what this release of the toolkit does not take."""
    for name, positional, named in calls:
        method = getattr(llm, name, None)
        if method is None:
            raise StepError(f"This release of rkllm-toolkit has no {name}")
        try:
            signature = inspect.signature(method)
        except ValueError:  # compiled, and does not say
            continue
        try:
            signature.bind(*positional, **named)
        except TypeError as exc:
            raise StepError(f"{name} of this release of rkllm-toolkit is {name}{signature}: {exc}") from exc


def losses_of(llm: Any, window: list[int]) -> list[float]:
    """How unlikely the model finds each token of a window after the first, given those before it."""
    import numpy as np
    import torch

    logits = llm.get_logits({"input_ids": torch.tensor([window])})
    if logits is None:
        raise StepError("get_logits gave nothing")
    scores = logits.detach().float().cpu().numpy().astype(np.float64)[0, :-1]
    scores -= scores.max(axis=-1, keepdims=True)
    likely = scores[np.arange(len(scores)), window[1:]] - np.log(np.exp(scores).sum(axis=-1))
    return [float(-value) for value in likely]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
