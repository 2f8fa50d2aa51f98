"""Load a captioned folder as a user of the `datasets` library would, and print what it holds: path, size, text."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import Image, load_dataset

folder, cache = (Path(word).resolve() for word in sys.argv[1:])
loaded = load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(cache))
paths = loaded.cast_column("image", Image(decode=False))
said = []
for row, where in zip(loaded, paths, strict=True):
    path = str(Path(where["image"]["path"]).relative_to(folder))
    rest = {name: value for name, value in row.items() if name not in ("image", "told_at")}
    said.append({"path": path, "size": row["image"].size, **rest})
print(json.dumps({"columns": loaded.column_names, "rows": said}))
