"""The whole error tree of rkvlm.

    RkvlmError                          anything this project raises on purpose          exit 1
    ├── ImageError                      a picture that cannot be used                    exit 3
    │   └── ImageTooLargeError          a picture over a limit
    ├── EncoderError                    the vision encoder                               exit 4
    │   ├── EncoderFileError            the file is missing, or is not an encoder
    │   │   └── EncoderPlatformError    built for another SoC                            exit 41
    │   ├── EncoderUnavailableError     what runs this kind of file is not installed here
    │   │   ├── RKNNWheelError          rknn-toolkit-lite2                               exit 42
    │   │   ├── RKNNLibraryError        librknnrt.so: not there, damaged, or too old     exit 43
    │   │   └── RKNNDriverError         the NPU's driver: none, or not for this user     exit 44
    │   ├── EncoderMemoryError          the NPU has no memory for it                     exit 45
    │   ├── CoreMaskError               a mask that is not the vendor's, or not this SoC's   exit 46
    │   ├── EncoderMismatchError        the file and the profile disagree
    │   └── EmbeddingError              an array that is not a valid embedding
    ├── RequestError                    what was asked cannot be done                    exit 5
    │   ├── ProfileError                a profile that is unknown, incomplete or wrong
    │   │   └── FileChoiceError         several files fit where one is wanted
    │   ├── PromptError                 a prompt that cannot be rendered safely
    │   ├── OptionError                 an option out of range or not usable here
    │   ├── FolderError                 a folder that cannot be captioned
    │   ├── CorePlanError               NPU cores that the SoC or the model does not have, or that are shared
    │   ├── ContextTooLongError         prompt, pictures and answer exceed the context
    │   ├── PictureURLError             an address that no picture is fetched from
    │   ├── UnknownModelError           a model that the service does not have
    │   ├── UnauthorizedError           no API key, or a wrong one
    │   ├── ForbiddenError              a page or a host name that may not use the service
    │   ├── RequestTooLargeError        a request over one of the service's limits
    │   └── RequestTimeoutError         a request that came too slowly
    ├── LibraryError                    librkllmrt.so                                    exit 6
    │   ├── LibraryNotFoundError        no library where we looked                       exit 61
    │   ├── LibraryFormatError          not a library, damaged, or the loader refuses it exit 62
    │   ├── LibraryMachineError         built for another machine                        exit 63
    │   ├── LibrarySymbolError          its functions are not those of its release       exit 64
    │   └── UnknownReleaseError         a release whose structs are not known            exit 65
    ├── ModelError                      the language model                               exit 7
    │   ├── ModelLoadError              the runtime would not load it
    │   │   ├── ModelFileError          not a .rkllm that this runtime can read
    │   │   ├── WrongPlatformError      made for another SoC
    │   │   ├── NPUMemoryError          the NPU has no memory for it
    │   │   ├── DriverTooOldError       the NPU's driver is older than the runtime needs
    │   │   └── RuntimeTooOldError      the runtime is older than the toolkit that made it
    │   ├── RunError                    a run failed
    │   ├── RunTimeoutError             a run did not come back
    │   ├── ModelBusyError              a second run on a handle
    │   └── ModelClosedError            used after close()
    ├── NotSupportedByRuntime           this release has no such function                exit 8
    ├── EngineError                     the model's own process                          exit 9
    │   ├── EngineQueueFullError        too many questions wait
    │   ├── EngineCrashedError          the process ended in the middle of an answer
    │   ├── EngineDeadlineError         an answer took longer than it may
    │   ├── EngineFailedError           the process cannot be started, or cannot be ended
    │   └── EngineStoppingError         the engine is being closed
    ├── NPUError                        whose turn it is on the NPU                      exit 10
    │   ├── NPUBusyError                another process holds it, and nobody was to wait
    │   └── NPULockError                the files that say who holds it cannot be used
    ├── ConversionError                 a model could not be converted for the NPU       exit 11
    │   ├── ConverterError              the converter is missing, or cannot be made here
    │   └── AccuracyError               what was built answers otherwise than its original
    ├── ServiceError                    the service that was asked                       exit 14
    │   ├── ServiceBusyError            it has no room for a request now
    │   └── ServiceUnreachableError     nothing answers there, or not as rkvlm does
    ├── MachineError                    `vlm doctor` found what must be put right        exit 12
    ├── FrequencyError                  the board's clocks cannot be set                 exit 13
    └── HubError                        a model cannot be fetched                        exit 15
        ├── HubOfflineError             the hub cannot be reached
        ├── HubAccessError              the hub wants to know who asks
        ├── HubNotFoundError            there is no such model or file
        └── HubFileError                a file that is not what the hub said, or has no place here

Surfaces take the exit code and the HTTP status from the class, never from the text.
"""

from __future__ import annotations

from encoders.errors import (
    CoreMaskError,
    EmbeddingError,
    EncoderError,
    EncoderFileError,
    EncoderMemoryError,
    EncoderMismatchError,
    EncoderPlatformError,
    EncoderUnavailableError,
    ImageError,
    ImageTooLargeError,
    RKNNDriverError,
    RKNNLibraryError,
    RKNNWheelError,
    RkvlmError,
)

__all__ = [
    "AccuracyError",
    "ContextTooLongError",
    "ConversionError",
    "ConverterError",
    "CoreMaskError",
    "CorePlanError",
    "DriverTooOldError",
    "EmbeddingError",
    "EncoderError",
    "EncoderFileError",
    "EncoderMemoryError",
    "EncoderMismatchError",
    "EncoderPlatformError",
    "EncoderUnavailableError",
    "EngineCrashedError",
    "EngineDeadlineError",
    "EngineError",
    "EngineFailedError",
    "EngineQueueFullError",
    "EngineStoppingError",
    "FileChoiceError",
    "FolderError",
    "ForbiddenError",
    "FrequencyError",
    "HubAccessError",
    "HubError",
    "HubFileError",
    "HubNotFoundError",
    "HubOfflineError",
    "ImageError",
    "ImageTooLargeError",
    "LibraryError",
    "LibraryFormatError",
    "LibraryMachineError",
    "LibraryNotFoundError",
    "LibrarySymbolError",
    "MachineError",
    "ModelBusyError",
    "ModelClosedError",
    "ModelError",
    "ModelFileError",
    "ModelLoadError",
    "NPUBusyError",
    "NPUError",
    "NPULockError",
    "NPUMemoryError",
    "NotSupportedByRuntime",
    "OptionError",
    "PictureURLError",
    "ProfileError",
    "PromptError",
    "RKNNDriverError",
    "RKNNLibraryError",
    "RKNNWheelError",
    "RequestError",
    "RequestTimeoutError",
    "RequestTooLargeError",
    "RkvlmError",
    "RunError",
    "RunTimeoutError",
    "RuntimeTooOldError",
    "ServiceBusyError",
    "ServiceError",
    "ServiceUnreachableError",
    "UnauthorizedError",
    "UnknownModelError",
    "UnknownReleaseError",
    "WrongPlatformError",
]


class RequestError(RkvlmError):
    """What was asked cannot be done; asking differently helps."""

    exit_code = 5
    http_status = 400


class ProfileError(RequestError):
    """A profile that is unknown, incomplete, or wrong; the message names the key."""


class FileChoiceError(ProfileError):
    """Several files of a model directory fit where one is wanted; say which."""


class PromptError(RequestError):
    """A prompt that cannot be rendered safely: a NUL, a control tag, or tags and pictures that do not match."""


class OptionError(RequestError):
    """An option out of range, or one that this model or runtime cannot take."""


class FolderError(RequestError):
    """A folder that cannot be captioned: missing, not writable, in use, or with somebody else's file in the way."""


class CorePlanError(RequestError):
    """NPU cores that this SoC does not have, that the model was not converted for, or that two would have to share."""


class ContextTooLongError(RequestError):
    """Prompt, pictures and answer together exceed the model's context."""


class PictureURLError(RequestError):
    """A picture's address that is not fetched: not allowed, not public, too large, too slow, or not there."""


class UnknownModelError(RequestError):
    """A model was named that the service does not have; it is never replaced by the one it has."""

    http_status = 404


class UnauthorizedError(RequestError):
    """The service wants an API key, and got none or a wrong one."""

    http_status = 401


class ForbiddenError(RequestError):
    """The request came from another site's page, or under a host name that is not the service's."""

    http_status = 403


class RequestTooLargeError(RequestError):
    """The request is over one of the service's limits: bytes, pictures, characters."""

    http_status = 413


class RequestTimeoutError(RequestError):
    """The request's body did not arrive in time."""

    http_status = 408


class LibraryError(RkvlmError):
    """librkllmrt.so cannot be used."""

    exit_code = 6


class LibraryNotFoundError(LibraryError):
    """No librkllmrt.so in any of the places where it was looked for."""

    exit_code = 61


class LibraryFormatError(LibraryError):
    """The file is not a shared library, is damaged, or the loader refuses it (a dependency is missing)."""

    exit_code = 62


class LibraryMachineError(LibraryError):
    """The library was built for another machine than this one."""

    exit_code = 63


class LibrarySymbolError(LibraryError):
    """The library lacks a function that its release has, or has one of a later release."""

    exit_code = 64


class UnknownReleaseError(LibraryError):
    """A release of the runtime whose struct layouts are not known; nothing is passed to it."""

    exit_code = 65


class ModelError(RkvlmError):
    """The language model failed."""

    exit_code = 7


class ModelLoadError(ModelError):
    """The runtime would not load the model."""


class ModelFileError(ModelLoadError):
    """The file is not a .rkllm that this runtime can read."""


class WrongPlatformError(ModelLoadError):
    """The model was made for another SoC than the one it was to be loaded on."""


class NPUMemoryError(ModelLoadError):
    """The NPU has no memory for the model."""


class DriverTooOldError(ModelLoadError):
    """The NPU's kernel driver is older than the runtime needs."""


class RuntimeTooOldError(ModelLoadError):
    """The runtime is older than the toolkit that made the model."""


class RunError(ModelError):
    """A run failed, or reported an error."""


class RunTimeoutError(ModelError):
    """A run did not return in time after it was asked to stop."""

    http_status = 503


class ModelBusyError(ModelError):
    """A second run was asked for on a model that is running."""

    http_status = 503


class ModelClosedError(ModelError):
    """The model was used after `close()`."""


class NotSupportedByRuntime(RkvlmError):
    """The runtime's release has no such function; the message names the first release that has it."""

    exit_code = 8
    http_status = 501

    def __init__(self, what: str, release: str, first: str | None) -> None:
        advice = f"it needs {first} or newer" if first else "no release known to rkvlm has it"
        super().__init__(f"{what} is not supported by RKLLM runtime {release}; {advice}.")
        self.what, self.release, self.first = what, release, first


class NPUError(RkvlmError):
    """Whose turn it is on the NPU cannot be settled."""

    exit_code = 10
    http_status = 503


class NPUBusyError(NPUError):
    """Another process holds the NPU, and waiting was not wanted; the message names it."""


class NPULockError(NPUError):
    """The files that say who holds the NPU cannot be made or opened."""

    http_status = 500


class ConversionError(RkvlmError):
    """A model could not be converted for the NPU; the message says what the vendor's toolkit said."""

    exit_code = 11


class ConverterError(ConversionError):
    """The converter's environment is missing or incomplete, or cannot be made on this machine."""


class AccuracyError(ConversionError):
    """What was built gives something else than the file that it was built from; it was not kept."""


class EngineError(RkvlmError):
    """The model's own process cannot answer. retry_after: when asking again makes sense, in seconds, where known."""

    exit_code = 9
    http_status = 503

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineQueueFullError(EngineError):
    """As many questions wait as may."""


class EngineCrashedError(EngineError):
    """The model's process ended, or had to be ended, while it had the question; what was told so far is all."""


class EngineDeadlineError(EngineError):
    """The answer was not complete when its time was over."""

    http_status = 504


class EngineFailedError(EngineError):
    """The model's process cannot be started, or one that has to go cannot be ended: nothing is answered."""


class EngineStoppingError(EngineError):
    """The engine is being closed and takes no more questions."""


class ServiceError(RkvlmError):
    """The service that was asked could not do it."""

    exit_code = 14


class ServiceBusyError(ServiceError):
    """The service has no room for one more request now; `retry_after` says in how many seconds to ask again."""

    http_status = 503

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ServiceUnreachableError(ServiceError):
    """Nothing answers at the service's address, it stopped in mid-answer, or what answers is no rkvlm."""

    http_status = 502


class MachineError(RkvlmError):
    """`vlm doctor` found what keeps this machine from running the model; its page says what."""

    exit_code = 12


class FrequencyError(RkvlmError):
    """The board's clocks cannot be read, set or restored."""

    exit_code = 13


class HubError(RkvlmError):
    """A model cannot be fetched from the hub."""

    exit_code = 15


class HubOfflineError(HubError):
    """The hub cannot be reached, or the connection broke; what was fetched is kept, and fetched on."""


class HubAccessError(HubError):
    """The hub gives this only to those whom it knows, or who agreed to its terms."""


class HubNotFoundError(HubError):
    """The hub has no such model, revision or file."""


class HubFileError(HubError):
    """A file that is not what the hub said, whose name leads out of its directory, or that cannot be kept here."""
