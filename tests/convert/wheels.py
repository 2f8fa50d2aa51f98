"""A folder of stand-in wheels, so that `vlm convert setup` runs for real, with pip, and loads nothing.

Their environment sees the packages of the one that the tests run in: one wheel brings a .pth file that says so.
"""

from __future__ import annotations

import sysconfig
import zipfile
from pathlib import Path

STANDIN = Path(__file__).with_name("toolkit_standin.py")
TORCH = "__version__ = {version!r}\nclass version:\n    cuda = {cuda!r}\n"
VERSIONS = {
    "numpy": "1.26.4", "onnx": "1.18.0", "protobuf": "4.25.9", "setuptools": "80.10.2", "onnxruntime": "1.32.0",
    "scipy": "1.17.1", "psutil": "7.2.2", "ruamel.yaml": "0.19.1", "tqdm": "4.70.1", "fast-histogram": "0.14",
    "opencv-python-headless": "4.11.0.86", "transformers": "5.23.0", "onnx-ir": "0.1.0", "pillow": "12.0.0",
}  # fmt: skip


def write(folder: Path, name: str, version: str, files: dict[str, str], needs: str = "") -> Path:
    """A pure wheel; files: name and text of each."""
    stem = f"{name.replace('-', '_').replace('.', '_')}-{version}"
    about = f"{stem}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (
        f"Requires-Dist: {needs}\n" if needs else ""
    )
    tags = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    content = {**files, f"{about}/METADATA": metadata, f"{about}/WHEEL": tags}
    record = "".join(f"{path},,\n" for path in [*content, f"{about}/RECORD"])
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**content, f"{about}/RECORD": record}.items():
            wheel.writestr(file, text)
    return path


def write_torch(folder: Path, version: str, cuda: str | None) -> Path:
    return write(folder, "torch", version, {"torch/__init__.py": TORCH.format(version=version, cuda=cuda)})


def write_all(folder: Path) -> Path:
    """Every wheel that the converter needs."""
    folder.mkdir()
    files = {
        "tqdm": {"ours.pth": sysconfig.get_path("purelib") + "\n"},
        "transformers": {"transformers/__init__.py": ""},
    }
    for name, version in VERSIONS.items():
        write(folder, name, version, files.get(name, {}))
    write_torch(folder, "2.13.0+cpu", None)
    # As the real one does, it pins what cannot be had beside the rest.
    package = {"rknn/__init__.py": "", "rknn/api/__init__.py": STANDIN.read_text()}
    write(folder, "rknn-toolkit2", "2.5.0", package, needs="torch<=2.4.0")
    return folder
