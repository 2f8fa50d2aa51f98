"""Making the files that a board wants, on a PC: `vlm convert`.

The vendor's tools pin packages that fight everything else, so that they live in an environment of their own.

    environment.py     makes that environment, and runs a worker in it
    export.py          the authors' own model becomes ONNX: its vision tower, its words
    export_worker/     the part of it that needs torch and transformers
    vision.py          an ONNX encoder becomes .rknn files, each checked before it is kept
    vision_worker.py   the part of it that needs rknn-toolkit2
    llm.py             a language model becomes a .rkllm file; llm_job.py says of what, llm_rules.py checks it
    llm_worker.py      the part of it that needs rkllm-toolkit
    dataset.py         the set of pictures and answers that a language model is quantised with
"""
