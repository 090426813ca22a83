"""Every error that sarguard raises on purpose.

A leaf also subclasses the builtin that it refines, so code that does not know sarguard
can still catch it. Parentheses name the builtins a class adds.

```text
SarguardError (Exception)
├── ConfigurationError (ValueError)
│   ├── UnsupportedModelError
│   ├── MissingDependencyError (ImportError)
│   └── PolicyError
│       ├── PolicyNotFoundError (FileNotFoundError)
│       ├── PolicyFormatError
│       ├── PolicyFloorError
│       └── PolicyOverrideError
├── InvalidRequestError (ValueError)
├── ClientClosedError (RuntimeError)
├── CheckTimeoutError (TimeoutError)
├── CheckFailedError (RuntimeError)
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
```
"""

from __future__ import annotations


class SarguardError(Exception):
    """Root of every error that sarguard raises."""


class ConfigurationError(SarguardError, ValueError):
    """A setup, an option or a request that cannot work."""


class UnsupportedModelError(ConfigurationError):
    """A model whose architecture cannot be guarded."""


class MissingDependencyError(ConfigurationError, ImportError):
    """An optional package that is needed and not installed."""


class PolicyError(ConfigurationError):
    """A policy that cannot be used as requested."""


class PolicyNotFoundError(PolicyError, FileNotFoundError):
    """No policy file or preset of that name."""


class PolicyFormatError(PolicyError):
    """A policy with an unknown key or an invalid value."""


class PolicyFloorError(PolicyError):
    """A request, a caller or a file that asked for less than its policy requires."""


class PolicyOverrideError(PolicyError):
    """An override that has expired, or breaks the rules for overrides."""


class InvalidRequestError(SarguardError, ValueError):
    """A request that makes no sense as it stands; a server answers it with 400."""


class ClientClosedError(SarguardError, RuntimeError):
    """A client that answers nothing any more; a server answers with 503."""


class CheckTimeoutError(SarguardError, TimeoutError):
    """A check that took longer than its time budget, and so has not passed."""


class CheckFailedError(SarguardError, RuntimeError):
    """A check whose guard answered what cannot be read, and so has not passed."""


class AudioError(SarguardError, ValueError):
    """A clip that cannot be given to a model."""


class AudioNotFoundError(AudioError, FileNotFoundError):
    """No audio file at a path."""


class AudioDecodeError(AudioError):
    """Bytes that are not audio, are damaged, or cannot be decoded here."""


class AudioEmptyError(AudioError):
    """A source without bytes or samples."""


class AudioSilentError(AudioError):
    """A clip too quiet to hold speech."""


class AudioTooLongError(AudioError):
    """A clip beyond the limit on seconds or on bytes."""


class AudioTooShortError(AudioError):
    """A clip below the minimum length."""


class AudioFormatError(AudioError):
    """A clip with an unusable rate, channel count, dtype, shape or value."""


class ArtifactError(SarguardError):
    """A steering artifact on disk that cannot be used."""


class ArtifactNotFoundError(ArtifactError, FileNotFoundError):
    """No artifact at a path."""


class ArtifactFormatError(ArtifactError, ValueError):
    """An artifact whose files do not have the layout that this version reads."""


class ArtifactIntegrityError(ArtifactError):
    """An artifact whose content differs from its recorded digest."""


class ArtifactMismatchError(ArtifactError):
    """An artifact made for another model or chat template."""


class ReferenceModelError(SarguardError, OSError):
    """A failure to assemble the embedded reference model."""


class ReferenceUnavailableError(ReferenceModelError):
    """A part of the reference model that is neither cached nor reachable."""


class ReferenceCorruptError(ReferenceModelError):
    """A part of the reference model that differs from its digest."""


class CalibrationError(SarguardError):
    """Refusal vectors that cannot be computed."""


class InsufficientDataError(CalibrationError, ValueError):
    """Too few calibration pairs."""


class DegenerateDirectionError(CalibrationError, ArithmeticError):
    """A refusal direction that vanished or is not finite."""


class NoRefusalError(CalibrationError):
    """A model without a refusal that steering could amplify."""


class JudgeError(SarguardError, RuntimeError):
    """A judge model that returned no label."""


class QueueFullError(SarguardError, RuntimeError):
    """Too many waiting requests; retry later."""


class SteeringError(SarguardError, RuntimeError):
    """An answer that was not steered as required."""


class SteeringNotAppliedError(SteeringError):
    """Steered positions missing from a receipt."""


class SteeringRemovedError(SteeringError):
    """Steering hooks that are no longer on the model."""


class NonFiniteActivationError(SteeringError, ArithmeticError):
    """A steered activation that holds NaN or infinity."""


class AuditError(SarguardError):
    """A ledger operation that failed."""


class AuditNotFoundError(AuditError, FileNotFoundError):
    """No ledger, key or record where one was expected."""


class AuditFormatError(AuditError, ValueError):
    """A file that is damaged, foreign, or from a newer version."""


class AuditRecordError(AuditError, ValueError):
    """A record that does not fit the schema or its request."""


class AuditKeyError(AuditError, ValueError):
    """A signing or verifier key that is malformed or not the ledger's."""


class AuditIntegrityError(AuditError):
    """A ledger whose content is not what was written."""


class AuditWriteError(AuditError, OSError):
    """A record that could not be made durable."""

    cause: str = "io_error"
    """Why: `disk_full`, `io_error`, `read_only`, `lock_timeout` ..."""
