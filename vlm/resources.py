"""Where the files that come with rkvlm are: the built-in profiles, the demo model, sample pictures.

A wheel carries them inside the package (`vlm/data`); in a checkout, and so in an editable install, they are at its
root. Importing this reads nothing.
"""

from __future__ import annotations

from pathlib import Path

from vlm.errors import ModelLoadError, ProfileError

_PACKAGE = Path(__file__).resolve().parent


def configs_dir() -> Path:
    """Return the directory of the built-in profiles.

    Raises ProfileError when this installation has none.
    """
    found, places = _find("configs", "configs", "demo.toml")
    if found is None:
        raise ProfileError(f"The built-in profiles are missing; looked in {places}. Reinstall rkvlm.")
    return found


def demo_dir() -> Path:
    """Return the directory of the demo model's files.

    Raises ModelLoadError when this installation has none.
    """
    found, places = _find("demo", "samples/demo/model", "config.json")
    if found is None:
        raise ModelLoadError(
            f"The demo model is missing; looked in {places}. Reinstall rkvlm, or make the model again with "
            "samples/demo/train.py."
        )
    return found


def samples_dir() -> Path | None:
    """Return the directory of the sample pictures, None where this installation has none."""
    return _find("pictures", "samples/pictures", "night.jpg")[0]


def _find(packaged: str, in_checkout: str, mark: str) -> tuple[Path | None, str]:
    """Return the directory that holds the file `mark`, or None, and where we looked, in words."""
    places = [_PACKAGE / "data" / packaged]
    root = _PACKAGE.parent
    # Beside an installed package lie other people's directories: only a checkout of ours has this file there.
    if (root / "pyproject.toml").is_file():
        places.append(root / in_checkout)
    found = next((place for place in places if (place / mark).is_file()), None)
    return found, " and ".join(str(place) for place in places)
