"""Every error rayseg raises on purpose, in one tree.

    RaysegError
    ├── ConfigError           a setting is unknown, malformed or contradicts another
    ├── ModelError            a model name or model directory cannot be used
    │   ├── WeightsError      parameters are missing, surplus, misshaped, cut short or not plain arrays
    │   └── BackendError      no engine on this machine runs the model with right numbers
    ├── ImageError            one image cannot be used; becomes a failed row, never stops a job
    │   ├── UnsupportedImage  the format is not one we read
    │   ├── CorruptImage      the bytes are not a readable image
    │   ├── TruncatedImage    the file ends before its pixels do
    │   └── ImageTooLarge     more pixels than --max-pixels allows
    ├── DatasetError          annotations that cannot be trained or evaluated on
    ├── SourceError           nothing to read at the given path, or no right to read it
    └── OutputError           the output folder cannot be used
        ├── JobMismatch       the folder belongs to a job with other settings
        └── TooManyFailures   --max-failures was reached

Each takes one message that says what, which value, likely why, and what to do. They cross process borders, so none carries
more than its message.
"""

from __future__ import annotations


class RaysegError(Exception):
    """Base of every error raised on purpose; `except RaysegError` catches all of them and nothing else."""


class ConfigError(RaysegError):
    """A setting is unknown, malformed or contradicts another."""


class ModelError(RaysegError):
    """A model name or model directory cannot be used."""


class WeightsError(ModelError):
    """Parameters are missing, surplus, misshaped, cut short or not plain arrays."""


class BackendError(ModelError):
    """No engine on this machine runs the model with right numbers."""


class ImageError(RaysegError):
    """One image cannot be used. It becomes a failed row of the ledger and never stops a job."""


class UnsupportedImage(ImageError):
    """The format is not one we read."""


class CorruptImage(ImageError):
    """The bytes are not a readable image."""


class TruncatedImage(ImageError):
    """The file ends before its pixels do."""


class ImageTooLarge(ImageError):
    """More pixels than the limit allows; raised from the header, before anything is decoded."""


class DatasetError(RaysegError):
    """Annotations that cannot be trained or evaluated on."""


class SourceError(RaysegError):
    """Nothing to read at the given path, or no right to read it."""


class OutputError(RaysegError):
    """The output folder cannot be used."""


class JobMismatch(OutputError):
    """The output folder belongs to a job with other settings."""


class TooManyFailures(OutputError):
    """More images failed than --max-failures allows."""
