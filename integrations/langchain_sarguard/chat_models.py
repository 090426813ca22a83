"""A LangChain chat model over a guarded client."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.caches import BaseCache
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import ConfigDict, Field

from langchain_sarguard.errors import AnswerRefusedError, AnswerThrownAwayError
from langchain_sarguard.replies import PROVIDER, to_message
from langchain_sarguard.requests import Request, Said, to_request
from sarguard import Outcome, Reply, SafeAudioLLM, SarguardError, Turn

if TYPE_CHECKING:
    from langchain_core.language_models.base import LangSmithParams

_PER_CALL = ("max_tokens", "seed", "temperature", "top_p")


class ChatSafeAudio(BaseChatModel):
    """Answer spoken and written messages behind SARSteer.

    Human messages carry clips as audio blocks; see `langchain_sarguard.blocks` for
    the shapes. Calls from several threads take turns on the one model. A call gives
    one answer in one piece, also through `stream`.

    A refusal, and the fallback that stands in for an answer whose steering could not
    be proven, are messages with the outcome in `response_metadata` and a refusal
    block in `content_blocks`; with `raise_on_refusal` they are errors.
    """

    model_config = ConfigDict(populate_by_name=True)

    client: SafeAudioLLM = Field(exclude=True, repr=False)
    """The guarded model; share one between chat models rather than loading twice."""
    max_tokens: int = Field(default=128, ge=1)
    """Most tokens of an answer."""
    temperature: float = Field(default=0.0, ge=0)
    """0 for greedy decoding."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of probability to sample from."""
    seed: int | None = None
    """Makes sampling repeatable."""
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    """Answers end before the first of these. They are looked for in the finished
    answer, so the tokens behind one are made, counted and thrown away."""
    raise_on_refusal: bool = False
    """Raise `AnswerRefusedError` and `AnswerThrownAwayError` in place of messages."""
    cache: BaseCache | bool | None = Field(default=False, exclude=True)
    """Off, also where a global cache is set: it would replay old failures."""

    @classmethod
    def from_client(
        cls,
        client: SafeAudioLLM,
        **settings: Any,  # noqa: ANN401
    ) -> ChatSafeAudio:
        """Return a chat model over a client that is already loaded.

        Args:
            client: The guarded model.
            settings: Fields of this class, such as `max_tokens`.

        Raises:
            TypeError: There is no such field.
        """
        unknown = sorted(set(settings) - cls._field_names())
        if unknown:
            raise TypeError(
                f"{cls.__name__} has no setting {', '.join(unknown)}: check the "
                "spelling; what concerns the model is given to SafeAudioLLM."
            )
        return cls(client=client, **settings)

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | os.PathLike[str],
        **settings: Any,  # noqa: ANN401
    ) -> ChatSafeAudio:
        """Load a model, guard it and return a chat model over it.

        Args:
            id_or_path: "reference" for the embedded model, a checkpoint directory or
                a model id on a hub.
            settings: Fields of this class, such as `max_tokens`; all others go to
                `SafeAudioLLM.from_pretrained`: `bundle`, `calibrate`, `alpha`,
                `device_map`, `dtype` and so on.

        Raises:
            SarguardError: As `SafeAudioLLM.from_pretrained` does.
            TypeError: There is no such setting.
        """
        own = cls._field_names() & set(settings)
        client = SafeAudioLLM.from_pretrained(
            id_or_path, **{k: v for k, v in settings.items() if k not in own}
        )
        return cls(client=client, **{k: settings[k] for k in own})

    @classmethod
    def _field_names(cls) -> set[str]:
        fields = cls.model_fields
        aliases = {field.alias for field in fields.values() if field.alias}
        return {*fields, *aliases} - {"client"}

    @property
    def model_name(self) -> str:
        """Return the name that the model was loaded by."""
        return self.client.model_name

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "model_name": self.model_name,
            "alpha": self.client.alpha,
            "bundle_digest": self.client.bundle.digest,
            "stop_sequences": self.stop,
            **{name: getattr(self, name) for name in _PER_CALL},
        }

    def _get_ls_params(
        self,
        stop: list[str] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = PROVIDER
        params["ls_model_name"] = kwargs.get("model", self.model_name)
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> ChatResult:
        stops = _check_stop(self.stop if stop is None else stop)
        options = self._options(kwargs)
        reply = self._ask(to_request(messages), options)
        message = to_message(reply, model_name=self.model_name, stop=stops)
        if self.raise_on_refusal:
            _raise_if_withheld(reply, message)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _options(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Return what to decode with; nothing here can weaken the guard."""
        unknown = sorted(set(overrides) - set(_PER_CALL))
        if unknown:
            raise ValueError(
                f"cannot take {', '.join(unknown)} with a call: this model takes "
                f"{', '.join(_PER_CALL)} and stop, and has no tools. The model and "
                "the dose are set where the client is loaded."
            )
        options = {n: overrides.get(n, getattr(self, n)) for n in _PER_CALL}
        options["max_new_tokens"] = options.pop("max_tokens")
        return options

    def _ask(self, request: Request, options: Mapping[str, Any]) -> Reply:
        question = request.question
        clips: list[Any] = [clip.data for clip in question.clips]
        try:
            return self.client.generate(
                clips or None,
                question.text,
                system=request.system,
                history=[self._turn(said) for said in request.history],
                **options,
            )
        except SarguardError as error:
            self._blame_clip(request, error)
            raise

    def _turn(self, said: Said) -> Turn:
        if not said.clips:
            return Turn(role=said.role, text=said.text)
        clips: list[Any] = [clip.data for clip in said.clips]
        return self.client.turn(said.role, text=said.text, audio=clips)

    def _blame_clip(self, request: Request, error: SarguardError) -> None:
        """Raise the fault of the first clip that cannot be used, if one cannot."""
        for clip in request.clips():
            try:
                self.client.turn("user", audio=clip.data)
            except SarguardError as fault:
                raise type(fault)(f"{clip.where}: {fault}") from error


def _check_stop(stop: list[str] | None) -> list[str]:
    found = stop or []
    if not all(found):
        raise ValueError(
            "an empty stop sequence would end every answer at once: leave it out."
        )
    return found


def _raise_if_withheld(reply: Reply, message: AIMessage) -> None:
    if reply.outcome is Outcome.REFUSED:
        raise AnswerRefusedError(
            f"the model declined: {message.text}", raw_message=message
        )
    if reply.outcome is not Outcome.ANSWERED:
        raise AnswerThrownAwayError(
            f"there is no answer ({reply.outcome.value}): {reply.guard.fault}",
            raw_message=message,
        )
