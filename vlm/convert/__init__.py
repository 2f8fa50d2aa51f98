"""Making the files that a board wants, on a PC: `vlm convert`.

The vendor's tools pin packages that fight everything else, so that they live in an environment of their own.

    environment.py     makes that environment, and runs a worker in it
    vision.py          an ONNX encoder becomes .rknn files, each checked before it is kept
    vision_worker.py   the part of it that needs the vendor's tools
"""
