from .audio.limits import AudioLimits as AudioLimits
from .audit.log import AuditLog as AuditLog
from .calibration.build import calibrate as calibrate
from .client import SafeAudioLLM as SafeAudioLLM
from .client_options import ClientOptions as ClientOptions
from .errors import SarguardError as SarguardError
from .guard.checks import (
    ALLOW as ALLOW,
    BLOCK as BLOCK,
    CheckResult as CheckResult,
    InputCheck as InputCheck,
    InputView as InputView,
    OutputCheck as OutputCheck,
    OutputView as OutputView,
    phrase_check as phrase_check,
    secrets_check as secrets_check,
)
from .policy.model import Policy as Policy
from .policy.overrides import Override as Override
from .policy.tiers import Tier as Tier
from .serving.observers import Observer as Observer, RequestEvent as RequestEvent
from .serving.request import GenerationRequest as GenerationRequest
from .serving.streams import (
    AnswerStream as AnswerStream,
    AsyncAnswerStream as AsyncAnswerStream,
)
from .steering.bundle import SteeringBundle as SteeringBundle
from .types import (
    Done as Done,
    Event as Event,
    GuardReport as GuardReport,
    Health as Health,
    Outcome as Outcome,
    Refusal as Refusal,
    Reply as Reply,
    TextDelta as TextDelta,
    Timings as Timings,
    Turn as Turn,
    Usage as Usage,
)

__version__: str
