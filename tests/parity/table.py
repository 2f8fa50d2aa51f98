"""Print how far our pixels and prompts are from the authors': `python tests/parity/table.py`. Needs the extra parity.

With `--templates DIR`, prompts are compared with the published chat templates in DIR/PROFILE, each as
chat_template.jinja, chat_template.json or tokenizer_config.json; without, with the prompts recorded from them. Ends
with exit code 1 where something differs that must not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

from compare import PixelDifference, PromptState, pixel_differences, prompt_state
from recorded import PROCESSORS

from vlm.profile import Profile, list_profiles, load_profile

HEAD = (
    f"{'profile':<16}{'family':<13}{'mean':>7}{'max':>7}{'covers':>8}  {'same policy':<13}{'prompt equal':<22}pictures"
)
NOTE = """\
mean, max: how far our pixels are from the authors' after normalisation, in steps of 1/255; where the policy is the
same, the mean must be under 1. covers: how much of our fixed-size input is picture and not padding."""


def rows(profile: Profile, pixels: list[PixelDifference], prompt: PromptState) -> list[str]:
    """The profile's lines of the table: one for each way that the authors' processor was run."""
    first, words = f"{profile.name:<16}{profile.family:<13}", f"{prompt.word:<22}"
    if not pixels:
        return [f"{first}{'-':>7}{'-':>7}{'-':>8}  {'-':<13}{words}transformers has no processor of this family"]
    lines = []
    for found in pixels:
        figures = f"{found.mean:7.3f}{found.worst:7.1f}{found.covers:8.0%}"
        same = "yes" if found.way.same else "no"
        lines.append(f"{first}{figures}  {same:<13}{words}{found.pictures}: {found.way.what}")
        first, words = " " * len(first), " " * len(words)
    return lines


def sources(profile: Profile, prompt: PromptState) -> list[str]:
    """Where each of the profile's values was read, and what it was compared with."""
    lines = [f"\n{profile.name}"]
    recorded = PROCESSORS.get(profile.family)
    if recorded:
        lines.append(f"  compared with: {recorded.name}, {recorded.source}")
    if prompt.why:
        lines.append(f"  prompt {prompt.word}: {prompt.why}")
    for key, source in profile.sources.items():
        lines.append(f"  {key}{' (unproven)' if key in profile.unproven else ''}: {source}")
    return lines


def main() -> int:
    """Print the table and every source; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiles", nargs="*", metavar="PROFILE", help="which profiles; all but the demo by default")
    parser.add_argument("--templates", type=Path, metavar="DIR", help="published tokenizer files, DIR/PROFILE/...")
    given = parser.parse_args()
    if given.templates is not None and not given.templates.is_dir():
        parser.error(f"{given.templates} is not a directory")
    # The demo is left out: its authors are we.
    chosen = given.profiles or [profile.name for profile in list_profiles() if not profile.files.bundled]
    print(f"{NOTE}\n\n{HEAD}")
    details, wrong = [], False
    for profile in map(load_profile, chosen):
        pixels, prompt = pixel_differences(profile), prompt_state(profile, given.templates)
        print("\n".join(rows(profile, pixels, prompt)), flush=True)
        details += sources(profile, prompt)
        wrong = wrong or prompt.wrong or any(found.wrong for found in pixels)
    print("\nWhere each value was read:")
    print("\n".join(details))
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
