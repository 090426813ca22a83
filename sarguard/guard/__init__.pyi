from .check_runner import Checks as Checks
from .checks import (
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
from .effective_policy import NO_POLICY as NO_POLICY, EffectivePolicy as EffectivePolicy
from .factory import GuardOptions as GuardOptions
from .policy_guard import PolicyGuard as PolicyGuard
from .transcripts import (
    SpeechRecogniser as SpeechRecogniser,
    Transcriber as Transcriber,
)
