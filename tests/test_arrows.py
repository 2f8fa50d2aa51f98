"""Who may import whom. Holds for every file of the packages, so also for rooms that are added later."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("vlm", "encoders")
SURFACES = ("vlm.cli", "vlm.server", "vlm.captions")
# What a surface may name besides the public names of `vlm` itself, and other surfaces.
OPEN_TO_SURFACES = ("vlm.errors", "vlm.options", "vlm.settings", "vlm.resources", "vlm.memory")
# Runtimes: the code that loads and runs a language model. The ABI mirror is data and may be read by anyone in vlm.
RUNTIMES = ("vlm.rkllm", "vlm.host")
DATA = ("vlm.rkllm.abi",)
MEETING_PLACE = ("vlm.pipeline",)
# The commands that measure the rooms themselves, that make their files and that set a machine up, have to name them.
EXCEPTIONS = {
    "vlm.cli.bench": ("vlm.bench", "vlm.resources"),
    "vlm.cli.convert": ("vlm.convert",),
    "vlm.cli.doctor": ("vlm.doctor",),
    "vlm.cli.freq": ("vlm.freq",),
    "vlm.cli.pull": ("vlm.pull",),
}
# The engine holds a whole model in a process: what it needs is what anybody gets.
ENGINE = ("vlm.engine",)
OPEN_TO_ENGINE = (*ENGINE, *OPEN_TO_SURFACES)
MODULE_NAME = re.compile(r"(?:vlm|encoders)(?:\.\w+)+(?::\w+)?")


@dataclass(frozen=True)
class Import:
    """One thing that a module imports: the full name, and the module it is taken from (`from module import name`)."""

    name: str
    source: str
    line: int


def within(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


def imports(module: str, is_package: bool, tree: ast.Module) -> Iterator[Import]:
    """Yield every import in a module: at its top or in a function, by a statement or by a name in a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                yield Import(f"{base}.{alias.name}", base, node.lineno)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE_NAME.fullmatch(node.value):
            named = node.value.partition(":")[0]
            yield Import(named, named, node.lineno)


def offences(module: str, found: list[Import], public: set[str]) -> Iterator[str]:
    """Yield what is wrong with a module's imports, in words."""
    for item in found:
        wrong = _wrong(module, item, public)
        if wrong:
            yield f"{module}, line {item.line}, imports {item.name}: {wrong}"
    sides = [
        {
            item.name
            for item in found
            if within(item.name, ("encoders",)) and not within(item.name, ("encoders.errors",))
        },
        {item.name for item in found if within(item.name, RUNTIMES) and not within(item.source, DATA)},
    ]
    if all(sides) and not within(module, MEETING_PLACE):
        yield f"{module} imports {min(sides[0])} and {min(sides[1])}: encoders and runtimes meet in the pipeline only"


def _wrong(module: str, item: Import, public: set[str]) -> str:
    if within(module, ("encoders",)) and within(item.name, ("vlm",)):
        return "encoders never imports vlm"
    if within(module, RUNTIMES) and within(item.name, ("encoders",)):
        return "a runtime never imports encoders"
    if within(module, ("vlm",)) and module != "vlm.errors" and within(item.name, ("encoders.errors",)):
        return "in vlm, errors come from vlm.errors alone"
    if module == "vlm.errors" and within(item.name, PACKAGES) and not within(item.name, ("encoders.errors",)):
        return "the error tree draws on encoders.errors alone"
    if within(module, SURFACES + ENGINE) and within(item.name, PACKAGES) and not _offered(module, item, public):
        return "surfaces and the engine import the public names of vlm only"
    return ""


def _offered(module: str, item: Import, public: set[str]) -> bool:
    open_rooms = OPEN_TO_ENGINE if within(module, ENGINE) else SURFACES + OPEN_TO_SURFACES + EXCEPTIONS.get(module, ())
    if within(item.name, open_rooms) or item.name == "vlm":
        return True
    return item.source == "vlm" and item.name.partition(".")[2] in public


def modules() -> dict[str, Path]:
    files = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def public_names() -> set[str]:
    """Return what `vlm` says it offers, and its version."""
    tree = ast.parse((ROOT / "vlm/__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return {*ast.literal_eval(node.value), "__version__"}
    return {"__version__"}


def check(module: str, text: str, *, is_package: bool = False, public: frozenset[str] = frozenset()) -> list[str]:
    return list(offences(module, list(imports(module, is_package, ast.parse(text))), set(public)))


@pytest.mark.parametrize("module", modules())
def test_imports_go_along_the_arrows(module: str) -> None:
    path = modules()[module]
    text = path.read_text(encoding="utf-8")
    assert not check(module, text, is_package=path.name == "__init__.py", public=frozenset(public_names()))


def test_public_names_are_no_modules() -> None:
    """A module among the public names would let a surface import anything through it."""
    inside = {name.partition(".")[2] for name in modules() if name.startswith("vlm.")}
    assert not public_names() & inside


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("encoders.onnx", "import vlm"),
        ("encoders.onnx", "from vlm.errors import ModelError"),
        ("encoders.open", "def load():\n    import vlm.profile"),
        ("encoders.open", "TABLE = {'.x': 'vlm.host:HostRuntime'}"),
        ("vlm.rkllm.model", "from encoders.base import ImageEmbedding"),
        ("vlm.rkllm.model", "import importlib\nimportlib.import_module('encoders.base')"),
        ("vlm.host.runtime", "import encoders"),
        ("vlm.profile", "from encoders.errors import RkvlmError"),
        ("vlm.profile", "from encoders import errors"),
        ("vlm.errors", "from encoders.base import VisionSpec"),
        ("vlm.errors", "from vlm.options import Sampling"),
        ("vlm.cli.describe", "from vlm.pipeline import VLM"),
        ("vlm.cli.describe", "import vlm.rkllm.model"),
        ("vlm.cli.describe", "from vlm import pipeline"),
        ("vlm.cli.describe", "import vlm.bench.decode"),
        ("vlm.cli.common", "from ..profile import load_profile"),
        ("vlm.server.openai", "from encoders.images import load_image"),
        ("vlm.server.openai", "from vlm import Secret"),
        ("vlm.captions", "from .pipeline import VLM"),
        ("vlm.profile", "from encoders.base import VisionSpec\nfrom vlm.rkllm.model import Model"),
        ("vlm.profile", "import encoders\nfrom vlm import host"),
        ("vlm.engine.child", "from vlm.pipeline import VLM"),
        ("vlm.engine.child", "import encoders"),
        ("vlm.engine.engine", "from vlm import Secret"),
    ],
)
def test_a_wrong_import_is_noticed(module: str, text: str) -> None:
    assert len(check(module, text, public=frozenset({"VLM"}))) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("encoders.onnx", "from encoders.errors import EncoderError\nimport numpy"),
        ("encoders.onnx", "TABLE = {'.onnx': 'encoders.onnx:OnnxEncoder'}"),
        ("vlm.errors", "from encoders.errors import RkvlmError"),
        ("vlm.rkllm.model", "from vlm.errors import RunError\nfrom vlm.rkllm.abi import abi"),
        ("vlm.rkllm.library", "from vlm.host import HostRuntime"),
        ("vlm.pipeline", "from encoders.base import VisionSpec\nfrom vlm.rkllm.model import Model"),
        ("vlm.profile", "from encoders.base import VisionSpec\nfrom vlm.rkllm.abi import RELEASES"),
        ("vlm.cli.describe", "import vlm\nfrom vlm import VLM, __version__\nfrom vlm.errors import RkvlmError"),
        ("vlm.cli.serve", "from vlm.server import app\nfrom vlm.options import RunOptions\nfrom vlm.cli import common"),
        ("vlm.cli.bench", "import vlm.bench.decode"),
        ("vlm.captions", "from vlm import VLM"),
        ("vlm.engine.child", "import vlm\nfrom vlm import VLM, errors\nfrom vlm.engine.wire import frame"),
    ],
)
def test_a_right_import_is_left_alone(module: str, text: str) -> None:
    assert check(module, text, public=frozenset({"VLM", "__version__"})) == []


@pytest.mark.parametrize(
    ("module", "is_package", "text", "name"),
    [
        ("vlm.cli.describe", False, "from . import common", "vlm.cli.common"),
        ("vlm.cli.describe", False, "from ..profile import Profile", "vlm.profile.Profile"),
        ("vlm.cli", True, "from .common import run", "vlm.cli.common.run"),
        ("vlm.cli", True, "from ..profile import Profile", "vlm.profile.Profile"),
        ("vlm.captions", False, "from .pipeline import VLM", "vlm.pipeline.VLM"),
    ],
)
def test_relative_imports_are_resolved(module: str, is_package: bool, text: str, name: str) -> None:
    assert [item.name for item in imports(module, is_package, ast.parse(text))] == [name]
