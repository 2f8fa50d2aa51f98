"""Models from the Hugging Face hub into the model directory: by a profile that names a conversion, or owner/repo.

huggingface_hub asks the hub and sends the bytes; its settings (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, proxies) hold.
From 2.0 on it throws away what was fetched when a process ends, and checks no sum: both are done here.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from vlm.errors import HubAccessError, HubError, HubFileError, HubNotFoundError, HubOfflineError
from vlm.locate import home
from vlm.npu import SOCS, find_soc
from vlm.profile import Profile, load_profile
from vlm.profile_tables import HubKeys
from vlm.settings import load_settings

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

# What a model is made of, where nobody says which files: the NPU's; else those of the host runtime.
_BOARD_FILES = ("*.rknn", "*.rkllm")
_HOST_FILES = ("*.onnx", "*.onnx_data*", "*.json")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository at one commit. checksum: SHA-256, or for a small file git's own sum (`by_git`)."""

    name: str
    size: int
    checksum: str
    by_git: bool

    def matches(self, path: Path) -> bool:
        """Whether a file here has this sum."""
        digest = hashlib.sha1(f"blob {self.size}\0".encode()) if self.by_git else hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest() == self.checksum


@dataclass(frozen=True)
class Pulled:
    """What was fetched. directory: where it lies. fetched: the files, in order; kept: those that were there already."""

    repo: str
    commit: str
    directory: Path
    fetched: tuple[Path, ...]
    kept: tuple[Path, ...]


def pull(
    what: str,
    *,
    model: str | None = None,
    files: Sequence[str] = (),
    revision: str = "main",
    say: Callable[[str], None] = lambda text: None,
) -> Pulled:
    """Fetch a model, and go on where an earlier attempt was interrupted.

    what: a profile's name, or owner/repo. model: of owner/repo, the profile whose directory it goes to; without one the
    directory is called like the repository. files: names or patterns (`*rk3588*`); all that a model is made of where
    none is given. say: takes each step in words.

    Raises ProfileError, OptionError, HubOfflineError, HubAccessError, HubNotFoundError or HubFileError.
    """
    settings = load_settings()
    profile = load_profile(what) if "/" not in what else load_profile(model) if model else None
    source = _source(what, profile)
    directory = home(profile, settings) if profile else settings.models_dir.expanduser() / source.repo.split("/")[1]
    with _in_words(source.repo, revision):
        info = _ask(source.repo, revision)
        wanted = _choose(info, files or source.files, by_name=bool(files or source.files))
        say(f"{source.repo} at {info.sha}: {len(wanted)} files, {sum(file.size for file in wanted) / 1e9:.2f} GB")
        fetched, kept = [], []
        for file in wanted:
            path = _place(directory, file.name)
            if path.is_file() and path.stat().st_size == file.size and file.matches(path):
                say(f"{file.name} is there already")
                kept.append(path)
                continue
            _fetch(source.repo, str(info.sha), file, path)
            say(f"{file.name} is there, its checksum is right")
            fetched.append(path)
    return Pulled(source.repo, str(info.sha), directory, tuple(fetched), tuple(kept))


def _source(what: str, profile: Profile | None) -> HubKeys:
    """Which repository and which of its files."""
    if "/" in what:
        return HubKeys.model_construct(repo=what, files=(), soc=None)
    assert profile is not None
    if profile.hub is None:
        raise HubNotFoundError(
            f"No public conversion of {profile.name} is known here. Give one as owner/repo (`vlm pull owner/repo "
            f"--model {profile.name}`), or make the files with `vlm convert`."
        )
    soc = find_soc()
    if soc is not None and profile.hub.soc not in (None, soc.name):
        raise HubNotFoundError(
            f"The conversion of {profile.name} that is known here is for {profile.hub.soc}, and this is {soc.name}. "
            f"Give one as owner/repo (`vlm pull owner/repo --model {profile.name}`)."
        )
    return profile.hub


def _ask(repo: str, revision: str) -> ModelInfo:
    from huggingface_hub import HfApi

    return HfApi().model_info(repo, revision=revision, files_metadata=True)


def _choose(info: ModelInfo, patterns: Sequence[str], *, by_name: bool) -> list[RemoteFile]:
    """The files to fetch. Raises HubNotFoundError where a pattern fits none, or where it is not clear which to take."""
    listed = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    if by_name:
        missing = [pattern for pattern in patterns if not fnmatch.filter(listed, pattern)]
        if missing:
            raise HubNotFoundError(f"{info.id} has no {', '.join(missing)}. It has: {', '.join(sorted(listed))}.")
        names = [name for name in listed if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    else:
        names = _usual(info.id, list(listed))
    return [_remote(info.id, listed[name]) for name in names]


def _usual(repo: str, listed: Sequence[str]) -> list[str]:
    """What a model is made of, where nobody says which files."""
    names = [name for name in listed if _fits(name, _BOARD_FILES) and not _for_another_soc(name)]
    names = names or [name for name in listed if _fits(name, _HOST_FILES)]
    for suffix in (".rknn", ".rkllm"):
        several = [name for name in names if name.endswith(suffix)]
        if len(several) > 1:
            raise HubNotFoundError(
                f"{repo} has several {suffix} files: {', '.join(several)}. Say which with --file, once for each file."
            )
    if not names:
        raise HubNotFoundError(
            f"{repo} has no .rknn, no .rkllm and no ONNX files. It has: {', '.join(sorted(listed)) or 'nothing'}."
        )
    return names


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _for_another_soc(name: str) -> bool:
    """Whether a file's name names SoCs, and not this machine's."""
    here = find_soc()
    named = [soc for soc in SOCS if soc in name.lower()]
    return here is not None and bool(named) and here.name not in named


def _remote(repo: str, sibling: RepoSibling) -> RemoteFile:
    checksum = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    if checksum is None or sibling.size is None:
        raise HubFileError(
            f"The hub does not say size and checksum of {sibling.rfilename} in {repo}; a mirror that leaves them out "
            "cannot be used (HF_ENDPOINT)."
        )
    return RemoteFile(sibling.rfilename, sibling.size, checksum, by_git=sibling.lfs is None)


def _place(directory: Path, name: str) -> Path:
    """Where a file goes. Raises HubFileError for a name that leads elsewhere: the repository's owner chooses names."""
    pure = PurePosixPath(name)
    path = directory / pure
    inside = not pure.is_absolute() and ".." not in pure.parts and "\\" not in name and name.isprintable()
    if not inside or not path.resolve().is_relative_to(directory.resolve()):
        raise HubFileError(f"The name {name!r} leads out of {directory}; nothing is written there.")
    return path


def _fetch(repo: str, commit: str, file: RemoteFile, path: Path) -> None:
    """Fetch one file beside its place, go on with what is there of it, check its sum, and move it to its place."""
    partial = path.with_name(f".{path.name}.{file.checksum[:12]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("ab") as target:
            _lock(target, file.name)
            done = target.tell()
            free = shutil.disk_usage(path.parent).free
            if file.size - done > free:
                raise HubFileError(
                    f"{file.name} needs {(file.size - done) / 1e9:.2f} GB more, and {path.parent} has "
                    f"{free / 1e9:.2f} GB free. Make room, or set VLM_MODELS_DIR to a larger disk."
                )
            _download(repo, commit, file, target, done)
            target.flush()
            if not file.matches(partial):
                partial.unlink()
                raise HubFileError(
                    f"{file.name} came with another checksum than {file.checksum}, which the hub says it has; it was "
                    "removed. Pull it again, or from another endpoint (HF_ENDPOINT)."
                )
            partial.replace(path)
    except (PermissionError, FileExistsError, NotADirectoryError) as exc:
        raise HubFileError(f"{path} cannot be written: {exc.strerror}. VLM_MODELS_DIR names another place.") from exc


def _lock(target: BinaryIO, name: str) -> None:
    try:
        fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise HubFileError(f"Another `vlm pull` is fetching {name}; wait for it.") from exc


def _download(repo: str, commit: str, file: RemoteFile, target: BinaryIO, done: int) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # loaded lazily

    if done > file.size:
        target.truncate(0)
        done = 0
    http_get(
        hf_hub_url(repo, file.name, revision=commit),
        target,
        resume_size=done,
        headers=build_hf_headers(),
        expected_size=file.size,
        displayed_filename=file.name,
    )


# From the hub's errors, by their names in huggingface_hub.errors, to ours: the first row that fits counts.
_CAUSES: tuple[tuple[str, type[HubError], str], ...] = (
    (
        "GatedRepoError",
        HubAccessError,
        "{repo} is given only to those who agreed to its terms: agree at {where}/{repo}, make a token there, and set "
        "HF_TOKEN to it.",
    ),
    ("RevisionNotFoundError", HubNotFoundError, '{repo} has no revision "{revision}" at {where}.'),
    (
        "RepositoryNotFoundError",
        HubNotFoundError,
        "There is no model {repo} at {where}, or it is private: check the name, or set HF_TOKEN to a token that may "
        "read it.",
    ),
    ("EntryNotFoundError", HubNotFoundError, "A file of {repo} has gone from {where} meanwhile; pull it again."),
    ("HFValidationError", HubNotFoundError, '"{repo}" is not the name of a model: it is owner/repo. {exc}'),
    ("OfflineModeIsEnabled", HubOfflineError, "HF_HUB_OFFLINE is set, so nothing is fetched; unset it."),
)


@contextmanager
def _in_words(repo: str, revision: str) -> Iterator[None]:
    """Turn the hub's errors into ours: the one place for this."""
    from httpx2 import HTTPError
    from huggingface_hub import constants, errors

    where = constants.ENDPOINT
    try:
        yield
    except (HTTPError, OSError, errors.HFValidationError) as exc:
        for name, kind, text in _CAUSES:
            if isinstance(exc, getattr(errors, name)):
                raise kind(text.format(repo=repo, revision=revision, where=where, exc=exc)) from exc
        if isinstance(exc, errors.HfHubHTTPError):
            raise _status_error(exc.response.status_code, where) from exc
        if isinstance(exc, OSError) and exc.errno is not None:
            raise HubFileError(
                f"The file cannot be written: {exc.strerror}. Make room, or set VLM_MODELS_DIR to another disk."
            ) from exc
        # What is left is the connection; fewer bytes than were announced come as an OSError without a number.
        raise HubOfflineError(
            f"{where} cannot be reached, or the connection broke ({str(exc) or type(exc).__name__}). What was fetched "
            "is kept: run the same again to go on. A mirror is named by HF_ENDPOINT, a proxy by HTTPS_PROXY."
        ) from exc


def _status_error(code: int, where: str) -> HubError:
    if code in (401, 403):
        return HubAccessError(
            f"{where} refuses ({code}): HF_TOKEN is not set, has expired, or may not read this model."
        )
    return HubOfflineError(f"{where} answered {code}; what was fetched is kept: run the same again later.")
