"""Every error that sarguard raises on purpose.

A leaf also subclasses the builtin it refines, so code that knows nothing of
sarguard can still catch it. Parentheses name the builtins a class adds.

SarguardError (Exception)
├── ConfigurationError (ValueError)
│   ├── UnsupportedModelError
│   ├── MissingDependencyError (ImportError)
│   └── PolicyError
│       ├── PolicyNotFoundError (FileNotFoundError)
│       ├── PolicyFormatError
│       ├── PolicyFloorError
│       └── PolicyOverrideError
├── AudioError (ValueError)
│   ├── AudioNotFoundError (FileNotFoundError)
│   ├── AudioDecodeError
│   ├── AudioEmptyError
│   ├── AudioSilentError
│   ├── AudioTooLongError
│   ├── AudioTooShortError
│   └── AudioFormatError
├── ArtifactError
│   ├── ArtifactNotFoundError (FileNotFoundError)
│   ├── ArtifactFormatError (ValueError)
│   ├── ArtifactIntegrityError
│   └── ArtifactMismatchError
├── ReferenceModelError (OSError)
│   ├── ReferenceUnavailableError
│   └── ReferenceCorruptError
├── CalibrationError
│   ├── InsufficientDataError (ValueError)
│   ├── DegenerateDirectionError (ArithmeticError)
│   └── NoRefusalError
├── JudgeError (RuntimeError)
├── QueueFullError (RuntimeError)
├── SteeringError (RuntimeError)
│   ├── SteeringNotAppliedError
│   ├── SteeringRemovedError
│   └── NonFiniteActivationError (ArithmeticError)
└── AuditError
    ├── AuditNotFoundError (FileNotFoundError)
    ├── AuditFormatError (ValueError)
    ├── AuditRecordError (ValueError)
    ├── AuditKeyError (ValueError)
    ├── AuditIntegrityError
    └── AuditWriteError (OSError)
"""

from __future__ import annotations


class SarguardError(Exception):
    """Be the root of every error raised by sarguard."""


class ConfigurationError(SarguardError, ValueError):
    """Say that the caller asked for something that cannot be set up."""


class UnsupportedModelError(ConfigurationError):
    """Say that a model's architecture cannot be guarded."""


class MissingDependencyError(ConfigurationError, ImportError):
    """Say that an optional package is needed and not installed."""


class PolicyError(ConfigurationError):
    """Say that a policy cannot be used as it was asked for."""


class PolicyNotFoundError(PolicyError, FileNotFoundError):
    """Say that there is no policy file or preset of a name."""


class PolicyFormatError(PolicyError):
    """Say that a policy holds an unknown key or a value that makes no sense."""


class PolicyFloorError(PolicyError):
    """Say that a request, a caller or a file asked for less than its policy holds."""


class PolicyOverrideError(PolicyError):
    """Say that an override has expired, or breaks the rules for overrides."""


class AudioError(SarguardError, ValueError):
    """Say that a clip cannot be given to a model."""


class AudioNotFoundError(AudioError, FileNotFoundError):
    """Say that there is no audio file at a path."""


class AudioDecodeError(AudioError):
    """Say that bytes are not audio that can be decoded here, or are damaged."""


class AudioEmptyError(AudioError):
    """Say that a source holds no bytes or no samples."""


class AudioSilentError(AudioError):
    """Say that a clip is too quiet to hold speech."""


class AudioTooLongError(AudioError):
    """Say that a clip exceeds the limit on seconds or on bytes."""


class AudioTooShortError(AudioError):
    """Say that a clip is shorter than the least length that can be answered."""


class AudioFormatError(AudioError):
    """Say that a clip's rate, channels, dtype, shape or values are unusable."""


class ArtifactError(SarguardError):
    """Say that a steering artifact on disk cannot be used."""


class ArtifactNotFoundError(ArtifactError, FileNotFoundError):
    """Say that there is no artifact at a path."""


class ArtifactFormatError(ArtifactError, ValueError):
    """Say that an artifact's files do not have the layout this version reads."""


class ArtifactIntegrityError(ArtifactError):
    """Say that an artifact's content differs from its recorded digest."""


class ArtifactMismatchError(ArtifactError):
    """Say that an artifact was made for another model or chat template."""


class ReferenceModelError(SarguardError, OSError):
    """Say that the embedded reference model cannot be put together."""


class ReferenceUnavailableError(ReferenceModelError):
    """Say that a part of the reference model is neither cached nor reachable."""


class ReferenceCorruptError(ReferenceModelError):
    """Say that a part of the reference model differs from its digest."""


class CalibrationError(SarguardError):
    """Say that refusal vectors cannot be computed."""


class InsufficientDataError(CalibrationError, ValueError):
    """Say that there are too few calibration pairs."""


class DegenerateDirectionError(CalibrationError, ArithmeticError):
    """Say that a refusal direction vanished or is not finite."""


class NoRefusalError(CalibrationError):
    """Say that the model has no refusal that steering could bring out."""


class JudgeError(SarguardError, RuntimeError):
    """Say that the model that labels answers gave no label."""


class QueueFullError(SarguardError, RuntimeError):
    """Say that too many requests wait already; ask again later."""


class SteeringError(SarguardError, RuntimeError):
    """Say that an answer was not steered as it had to be."""


class SteeringNotAppliedError(SteeringError):
    """Say that steered positions are missing from a receipt."""


class SteeringRemovedError(SteeringError):
    """Say that the steering hooks are no longer on the model."""


class NonFiniteActivationError(SteeringError, ArithmeticError):
    """Say that a steered activation holds NaN or infinity."""


class AuditError(SarguardError):
    """Say that the ledger cannot do what was asked of it."""


class AuditNotFoundError(AuditError, FileNotFoundError):
    """Say that there is no ledger, key or record at a place."""


class AuditFormatError(AuditError, ValueError):
    """Say that a file is damaged, foreign, or made by a newer version."""


class AuditRecordError(AuditError, ValueError):
    """Say that a record does not fit the schema or its request."""


class AuditKeyError(AuditError, ValueError):
    """Say that a signing or verifier key is malformed or not the ledger's."""


class AuditIntegrityError(AuditError):
    """Say that the ledger is not what was written to it."""


class AuditWriteError(AuditError, OSError):
    """Say that a record could not be made durable."""

    cause: str = "io_error"
    """Why: `disk_full`, `io_error`, `read_only`, `lock_timeout` ..."""
