# ruff: noqa: RUF001
"""Default messages in place of an answer, in ten languages.

The messages are short and can be spoken. They never name a rule, a score or a
threshold, and never mention the request's content, so somebody who probes the limits
learns nothing from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Reason(StrEnum):
    """Why a message takes the place of an answer."""

    REFUSED = "refused"
    BLOCKED = "blocked"
    ERROR = "error"
    TIMEOUT = "timeout"
    UNSUPPORTED_AUDIO = "unsupported_audio"
    OVER_LIMIT = "over_limit"


def _messages(
    refused: str,
    blocked: str,
    error: str,
    timeout: str,
    unsupported_audio: str,
    over_limit: str,
) -> Mapping[Reason, str]:
    texts = (refused, blocked, error, timeout, unsupported_audio, over_limit)
    return MappingProxyType(dict(zip(Reason, texts, strict=True)))


DEFAULT_MESSAGES: Mapping[str, Mapping[Reason, str]] = MappingProxyType(
    {
        "en": _messages(
            "I'm sorry, I can't help with that.",
            "I'm sorry, I can't help with that. Is there something else I can do?",
            "I'm sorry, I can't answer right now. Please try again later.",
            "I'm sorry, that took too long. Please ask me again.",
            "I'm sorry, I couldn't understand the recording. Please say it again.",
            "I'm sorry, that is too long for me. "
            "Please make it shorter, or start again.",
        ),
        "es": _messages(
            "Lo siento, no puedo ayudarle con eso.",
            "Lo siento, no puedo ayudarle con eso. ¿Puedo ayudarle en otra cosa?",
            "Lo siento, ahora no puedo responder. Inténtelo de nuevo más tarde.",
            "Lo siento, he tardado demasiado. Por favor, pregúnteme otra vez.",
            "Lo siento, no he entendido la grabación. Por favor, repítalo.",
            "Lo siento, eso es demasiado largo. "
            "Por favor, acórtelo o empiece de nuevo.",
        ),
        "fr": _messages(
            "Je suis désolé, je ne peux pas vous aider pour cela.",
            "Je suis désolé, je ne peux pas vous aider pour cela. "
            "Puis-je faire autre chose pour vous ?",
            "Je suis désolé, je ne peux pas répondre pour le moment. "
            "Veuillez réessayer plus tard.",
            "Je suis désolé, cela a pris trop de temps. "
            "Veuillez me reposer la question.",
            "Je suis désolé, je n'ai pas compris l'enregistrement. Veuillez répéter.",
            "Je suis désolé, c'est trop long pour moi. "
            "Veuillez abréger ou recommencer.",
        ),
        "de": _messages(
            "Es tut mir leid, dabei kann ich nicht helfen.",
            "Es tut mir leid, dabei kann ich nicht helfen. "
            "Kann ich sonst etwas für Sie tun?",
            "Es tut mir leid, ich kann gerade nicht antworten. "
            "Bitte versuchen Sie es später noch einmal.",
            "Es tut mir leid, das hat zu lange gedauert. "
            "Bitte fragen Sie mich noch einmal.",
            "Es tut mir leid, ich habe die Aufnahme nicht verstanden. "
            "Bitte sagen Sie es noch einmal.",
            "Es tut mir leid, das ist zu lang für mich. "
            "Bitte fassen Sie sich kürzer oder beginnen Sie neu.",
        ),
        "it": _messages(
            "Mi dispiace, non posso aiutarla in questo.",
            "Mi dispiace, non posso aiutarla in questo. Posso fare altro per lei?",
            "Mi dispiace, al momento non posso rispondere. Riprovi più tardi.",
            "Mi dispiace, ci è voluto troppo tempo. Me lo chieda di nuovo.",
            "Mi dispiace, non ho capito la registrazione. Per favore, ripeta.",
            "Mi dispiace, è troppo lungo per me. Lo abbrevi o ricominci, per favore.",
        ),
        "pt": _messages(
            "Desculpe, não posso ajudar com isso.",
            "Desculpe, não posso ajudar com isso. Posso ajudar em outra coisa?",
            "Desculpe, não consigo responder agora. Tente novamente mais tarde.",
            "Desculpe, demorou demais. Por favor, pergunte outra vez.",
            "Desculpe, não entendi a gravação. Por favor, repita.",
            "Desculpe, isso é longo demais. Por favor, encurte ou comece de novo.",
        ),
        "zh": _messages(
            "抱歉，这件事我无法帮忙。",
            "抱歉，这件事我无法帮忙。还有别的事需要我帮忙吗？",
            "抱歉，我现在无法回答。请稍后再试。",
            "抱歉，处理时间过长。请您再问一次。",
            "抱歉，我没有听懂这段录音。请您再说一遍。",
            "抱歉，内容太长了。请您缩短一些，或者重新开始。",
        ),
        "ja": _messages(
            "申し訳ありませんが、それについてはお手伝いできません。",
            "申し訳ありませんが、それについてはお手伝いできません。"
            "ほかにご用はありますか。",
            "申し訳ありませんが、今はお答えできません。後でもう一度お試しください。",
            "申し訳ありません、時間がかかりすぎました。もう一度お尋ねください。",
            "申し訳ありません、録音を聞き取れませんでした。もう一度お話しください。",
            "申し訳ありません、長すぎて処理できません。短くするか、最初からお願いします。",
        ),
        "hi": _messages(
            "क्षमा करें, मैं इसमें मदद नहीं कर सकता।",
            "क्षमा करें, मैं इसमें मदद नहीं कर सकता। क्या मैं कुछ और कर सकता हूँ?",
            "क्षमा करें, मैं अभी उत्तर नहीं दे सकता। कृपया बाद में फिर कोशिश करें।",
            "क्षमा करें, इसमें बहुत समय लग गया। कृपया फिर से पूछें।",
            "क्षमा करें, मैं रिकॉर्डिंग समझ नहीं सका। कृपया फिर से कहें।",
            "क्षमा करें, यह मेरे लिए बहुत लंबा है। कृपया इसे छोटा करें या फिर से शुरू करें।",
        ),
        "ar": _messages(
            "عذرًا، لا أستطيع المساعدة في ذلك.",
            "عذرًا، لا أستطيع المساعدة في ذلك. هل يمكنني مساعدتك في شيء آخر؟",
            "عذرًا، لا أستطيع الإجابة الآن. يرجى المحاولة مرة أخرى لاحقًا.",
            "عذرًا، استغرق ذلك وقتًا طويلًا. يرجى السؤال مرة أخرى.",
            "عذرًا، لم أفهم التسجيل. يرجى إعادة ما قلته.",
            "عذرًا، هذا طويل جدًا. يرجى اختصاره أو البدء من جديد.",
        ),
    }
)
"""Texts by language and reason; a policy may have its own, see `Fallback`."""
