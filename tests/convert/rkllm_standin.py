"""Stands where rkllm-toolkit is: `rkllm.api`, with the toolkit's signatures.

Writes down each call, into the file that RKLLM_STANDIN_LOG names, one JSON line a call. RKLLM_STANDIN says what goes
wrong:
    load_huggingface, load_gguf, build, export_rkllm, update_rkllm   that call fails as the toolkit's does: -1
    raise       build raises
    empty       export_rkllm says that it worked, and writes nothing
    suffix      export_rkllm adds .rkllm to the name that it is given
    unchanged   update_rkllm says that it worked, and leaves the file as it was
    silent      get_logits gives nothing
    old         the release before max_context
"""

import json
import math
import os

import numpy as np

MODE = os.environ.get("RKLLM_STANDIN", "")
VOCABULARY = 300


class Tensor(np.ndarray):
    """As much of torch's as is asked of logits."""

    def detach(self):
        return self

    def float(self):
        return self.astype(np.float32)

    def cpu(self):
        return self

    def numpy(self):
        return np.asarray(self)


class RKLLM:
    def _note(self, call, given):
        given.pop("self")
        with open(os.environ["RKLLM_STANDIN_LOG"], "a") as log:
            log.write(json.dumps({"call": call, **given}, default=repr) + "\n")
        print(f"INFO: {call}: what the toolkit prints")
        return -1 if call == MODE else 0

    def load_huggingface(
        self, model, model_lora=None, device="cpu", dtype="float32", custom_config=None, load_weight=True
    ):
        return self._note("load_huggingface", locals())

    def load_gguf(self, model):
        return self._note("load_gguf", locals())

    def build(  # noqa: PLR0913,PLR0917 - the toolkit's own
        self,
        do_quantization=True,
        optimization_level=1,
        quantized_dtype="w8a8",
        quantized_algorithm="normal",
        num_npu_core=3,
        extra_qparams=None,
        dataset=None,
        hybrid_rate=0,
        target_platform="rk3588",
        max_context=4096,
    ):
        if MODE == "raise":
            raise RuntimeError("CUDA out of memory")
        return self._note("build", locals())

    if MODE == "old":

        def build(self, do_quantization=True, optimization_level=1, quantized_dtype="w8a8", target_platform="rk3588"):
            return self._note("build", locals())

    def export_rkllm(self, export_path):
        code = self._note("export_rkllm", locals())
        if MODE not in ("empty", "export_rkllm"):
            with open(export_path + (".rkllm" if MODE == "suffix" else ""), "wb") as file:
                file.write(b"RKLLM exported")
        if MODE == "lora":
            with open(export_path.replace(".rkllm", "_lora.rkllm"), "wb") as file:
                file.write(b"RKLLM adapter")
        return code

    def update_rkllm(self, model):
        code = self._note("update_rkllm", locals())
        if MODE not in ("unchanged", "update_rkllm"):
            with open(model, "ab") as file:
                file.write(b" updated")
        return code

    def get_logits(self, inputs):
        """The token that is there is three times as likely to come again as any other is to follow it."""
        ids = np.asarray(inputs["input_ids"])
        self._note("get_logits", {"self": 0, "shape": ids.shape})
        if MODE == "silent":
            return None
        logits = np.zeros((*ids.shape, VOCABULARY), np.float32)
        np.put_along_axis(logits, ids[..., None], math.log(3), axis=-1)
        return logits.view(Tensor)

    def chat_model(self, messages, args):
        self._note("chat_model", locals())
        return f"heard {messages}"
