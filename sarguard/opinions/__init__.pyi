from .classifier import classifier_guard as classifier_guard
from .granite import (
    granite_guardian as granite_guardian,
    parse_granite_guardian as parse_granite_guardian,
)
from .llama import (
    llama_guard as llama_guard,
    parse_llama_guard as parse_llama_guard,
)
from .moderation import moderation_guard as moderation_guard
from .recognisers import (
    reference_transcriber as reference_transcriber,
    transformers_transcriber as transformers_transcriber,
    whisper_transcriber as whisper_transcriber,
)
from .request_probe import request_classifier as request_classifier
from .gemma import GUIDELINES as GUIDELINES, shield_gemma as shield_gemma
from .text_judges import (
    TextMessage as TextMessage,
    TextJudge as TextJudge,
    text_guard as text_guard,
)
