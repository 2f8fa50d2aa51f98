"""The root of the error tree, and its picture and encoder branches.

    RkvlmError                          anything this project raises on purpose
    ├── ImageError                      a picture that cannot be used
    │   └── ImageTooLargeError          a picture over a limit
    └── EncoderError                    the vision encoder
        ├── EncoderFileError            the file is missing, or is not an encoder
        │   └── EncoderPlatformError    built for another SoC
        ├── EncoderUnavailableError     what runs this kind of file is not installed here
        │   ├── RKNNWheelError          rknn-toolkit-lite2
        │   ├── RKNNLibraryError        librknnrt.so: not there, damaged, or too old
        │   └── RKNNDriverError         the NPU's driver: not there, or not for this user
        ├── EncoderMemoryError          the NPU has no memory for it
        ├── CoreMaskError               a core mask that is not the vendor's, or not this SoC's
        ├── EncoderMismatchError        the file and the profile disagree
        └── EmbeddingError              an array that is not a valid embedding

The rest of the tree is in `vlm.errors`, which re-exports these names.
"""

from __future__ import annotations

from typing import ClassVar


class RkvlmError(Exception):
    """Anything that rkvlm raises on purpose; the message says what happened and what to do next.

    `exit_code` is what the command line exits with, `http_status` what the service answers with. Both belong to the
    class, so that no surface has to read a message to know what kind of error it is.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500


class ImageError(RkvlmError):
    """A picture that cannot be used: not a picture, damaged, empty, or of a kind that is not read."""

    exit_code = 3
    http_status = 422


class ImageTooLargeError(ImageError):
    """A picture over one of the limits in `encoders.images.ImageLimits`."""

    http_status = 413


class EncoderError(RkvlmError):
    """The vision encoder failed."""

    exit_code = 4


class EncoderFileError(EncoderError):
    """The encoder file is missing, unreadable, or not what its name says."""


class EncoderPlatformError(EncoderFileError):
    """The encoder was built for another SoC than this one."""

    exit_code = 41


class EncoderUnavailableError(EncoderError):
    """What this encoder file needs (a package, a vendor library, an NPU) is not on this machine."""


class RKNNWheelError(EncoderUnavailableError):
    """rknn-toolkit-lite2 cannot be imported: no wheel for this machine or this Python, or not installed."""

    exit_code = 42


class RKNNLibraryError(EncoderUnavailableError):
    """librknnrt.so is missing, damaged, or older than the wheel or the encoder file needs."""

    exit_code = 43


class RKNNDriverError(EncoderUnavailableError):
    """The NPU's kernel driver is not there, or this user may not open it."""

    exit_code = 44


class EncoderMemoryError(EncoderError):
    """The NPU has no memory for the encoder."""

    exit_code = 45


class CoreMaskError(EncoderError):
    """A core mask that is not one of the vendor's, or that this SoC does not take."""

    exit_code = 46


class EncoderMismatchError(EncoderError):
    """The encoder file and the profile disagree on size, tokens, width or outputs."""


class EmbeddingError(EncoderError):
    """An array that is not a valid embedding: wrong dtype, shape, layout, or values that are not finite."""
