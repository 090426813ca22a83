"""A LangChain chat model over a guarded client."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_core.caches import BaseCache
from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompt_values import ChatPromptValue, PromptValue
from pydantic import ConfigDict, Field, PrivateAttr, field_validator

from langchain_sarguard.audio_handles import hide_audio
from langchain_sarguard.calls import PER_CALL, Call, read_options
from langchain_sarguard.errors import InvalidInputError
from langchain_sarguard.guarded_runnables import GuardedWays, check_configurable
from langchain_sarguard.messages_in import LostAudio, to_request
from langchain_sarguard.messages_out import PROVIDER, Hearing, raise_if_withheld
from langchain_sarguard.profile import profile_of
from langchain_sarguard.structured import METHOD, Schema, structured
from langchain_sarguard.vault import AudioVault, shared_vault
from sarguard import Policy, Reply, SafeAudioLLM

if TYPE_CHECKING:
    from langchain_core.language_models import ModelProfile
    from langchain_core.language_models.base import LangSmithParams
    from langchain_core.outputs import LLMResult
    from langchain_core.runnables import Runnable, RunnableConfig

_CONFIGURABLE = (*PER_CALL, "stop", "raise_on_refusal", "lost_audio")
_NO_TOOLS = "this model has no tools: leave them out, or put what they found into text."


class ChatSafeAudio(GuardedWays, BaseChatModel):  # type: ignore[misc]
    """Answer spoken and written messages behind SARSteer.

    Human messages carry clips as audio blocks, or name them; see `audio_message` and
    `langchain_sarguard.blocks` for the shapes. Callbacks, tracers and logs get the
    names only. Calls of any number of threads and tasks share the one model.

    A refusal, and the text that stands in for an answer whose steering could not be
    proven, are messages with the outcome in `response_metadata` and a refusal block
    in `content_blocks`; with `raise_on_refusal` they are errors.
    """

    model_config = ConfigDict(populate_by_name=True)

    client: SafeAudioLLM = Field(exclude=True, repr=False, frozen=True)
    """The guarded model; share one between chat models rather than loading twice."""
    vault: AudioVault = Field(
        default_factory=shared_vault, exclude=True, repr=False, frozen=True
    )
    """Where the clips are that messages name."""
    max_tokens: int = Field(default=128, ge=1)
    """Most tokens of an answer."""
    temperature: float = Field(default=0.0, ge=0)
    """0 for greedy decoding."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of probability to sample from."""
    seed: int | None = None
    """Makes sampling repeatable."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds from the call to the answer, the queue included; None waits."""
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    """Answers end before the first of these."""
    raise_on_refusal: bool = False
    """Raise `AnswerRefusedError` and `AnswerThrownAwayError` in place of messages."""
    lost_audio: LostAudio = "raise"
    """What to do about an earlier message whose clip is gone: "raise", or "note"."""
    cache: BaseCache | bool | None = Field(default=False, exclude=True, frozen=True)
    """Always off: a cache answers without the guard and without a record."""
    _digested: tuple[Policy, str] | None = PrivateAttr(default=None)

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

    @field_validator("cache")
    @classmethod
    def _refuse_cache(cls, cache: object) -> bool:
        if cache:
            raise ValueError(
                "a guarded model takes no cache: a hit would be an answer without the "
                "guard and without a record. Leave it out."
            )
        return False

    @property
    def model_name(self) -> str:
        """Return the name that the model was loaded by."""
        return self.client.model_name

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    @property
    def _identifying_params(self) -> dict[str, Any]:
        policy = self.client.policy
        return {
            "model_name": self.model_name,
            "alpha": self.client.alpha,
            "bundle_digest": self.client.bundle.digest,
            "policy": self._digest_of(policy),
            "tier": str(policy.steering.tier),
            "stop_sequences": self.stop,
            **{name: getattr(self, name) for name in PER_CALL},
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

    def _resolve_model_profile(self) -> ModelProfile | None:
        return profile_of(self.model_name)

    def bind_tools(self, *_: Any, **__: Any) -> Any:  # noqa: ANN401
        """Say that there are no tools.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(_NO_TOOLS)

    def with_structured_output(
        self,
        schema: Schema,
        *,
        method: str = METHOD,
        include_raw: bool = False,
        strict: bool | None = None,
        **others: Any,  # noqa: ANN401
    ) -> Runnable[Any, Any]:
        """Return a model whose answers follow a schema, by constrained decoding.

        The model is told of the schema behind the last message, and may still
        decline: that raises `AnswerRefusedError`, or with `include_raw` is the
        `parsing_error`. Needs llguidance.

        Args:
            schema: A JSON schema with a title, a pydantic class or a TypedDict.
            method: "json_schema"; there is no other.
            include_raw: Return a dict of `raw`, `parsed` and `parsing_error`.
            strict: False lets objects have what the schema does not name.

        Raises:
            InvalidInputError: Another method, or an argument, that there is not.
            ValueError: The schema is of another kind.
        """
        if method != METHOD or others:
            asked = ", ".join([f"method={method!r}", *others])
            raise InvalidInputError(
                f"structured output was asked for with {asked}: this model has no "
                f"tools, it follows schemas. Use method={METHOD!r} with include_raw "
                "and strict."
            )
        return structured(self, schema, include_raw=include_raw, strict=strict)

    def configurable_fields(
        self,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Return this model with settings that a configuration may choose.

        Raises:
            InvalidInputError: A field is the guard's.
        """
        check_configurable(kwargs, _CONFIGURABLE)
        return super().configurable_fields(**kwargs)

    def astream_events(
        self,
        input: Any,  # noqa: ANN401
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Stream events; the first of them repeats the input, with its clips named."""
        messages = self._convert_input(input).to_messages()
        return super().astream_events(messages, config, **kwargs)

    def generate(
        self,
        messages: list[list[BaseMessage]],
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> LLMResult:
        """Answer several conversations; what callbacks get of clips is their names."""
        hidden = [self._hide(conversation) for conversation in messages]
        return super().generate(hidden, *args, **kwargs)

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> LLMResult:
        """Answer several conversations without blocking the event loop."""
        hidden = [self._hide(conversation) for conversation in messages]
        return await super().agenerate(hidden, *args, **kwargs)

    def _convert_input(self, model_input: Any) -> PromptValue:  # noqa: ANN401
        # Before the first callback, on every way that leads to the model.
        messages = super()._convert_input(model_input).to_messages()
        return ChatPromptValue(messages=self._hide(messages))

    def _hide(self, messages: list[BaseMessage]) -> list[BaseMessage]:
        if self.cache is not False:
            raise InvalidInputError(
                "a cache was put on a guarded model: a hit would be an answer without "
                "the guard and without a record. Set cache to False."
            )
        return hide_audio(messages, self.vault)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> ChatResult:
        hearing = self._hearing()
        with self._call(messages, stop, kwargs).events() as events:
            heard = [hearing.hear(event) for event in events]
        return self._result(hearing, heard[-1])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> ChatResult:
        hearing = self._hearing()
        async with self._call(messages, stop, kwargs).aevents() as events:
            heard = [hearing.hear(event) async for event in events]
        return self._result(hearing, heard[-1])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Iterator[ChatGenerationChunk]:
        hearing = self._hearing()
        with self._call(messages, stop, kwargs).events() as events:
            for event in events:
                chunk = self._chunk(hearing, hearing.hear(event))
                if chunk is None:
                    continue
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> AsyncIterator[ChatGenerationChunk]:
        hearing = self._hearing()
        async with self._call(messages, stop, kwargs).aevents() as events:
            async for event in events:
                chunk = self._chunk(hearing, hearing.hear(event))
                if chunk is None:
                    continue
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _hearing(self) -> Hearing:
        policy = self.client.policy
        return Hearing(
            model_name=self.model_name,
            policy=f"{policy.id} {policy.version} {self._digest_of(policy)}",
        )

    def _digest_of(self, policy: Policy) -> str:
        """Return a policy's digest, computed when the policy is seen first."""
        if self._digested is None or self._digested[0] is not policy:
            self._digested = policy, policy.digest
        return self._digested[1]

    def _call(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        overrides: Mapping[str, Any],
    ) -> Call:
        stops = self.stop if stop is None else stop
        return Call(
            client=self.client,
            read=partial(to_request, messages, self.vault, lost_audio=self.lost_audio),
            options=read_options(self, overrides, stops),
        )

    def _result(self, hearing: Hearing, heard: str | Reply) -> ChatResult:
        if isinstance(heard, str):
            raise RuntimeError("the answer ended without its reply")
        message = hearing.message(heard)
        if self.raise_on_refusal:
            raise_if_withheld(message)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunk(
        self, hearing: Hearing, heard: str | Reply
    ) -> ChatGenerationChunk | None:
        if isinstance(heard, Reply):
            if self.raise_on_refusal:
                raise_if_withheld(hearing.message(heard))
            return ChatGenerationChunk(message=hearing.last_chunk(heard))
        silent = self.raise_on_refusal and hearing.refusal is not None
        if silent or not heard:
            return None
        return ChatGenerationChunk(message=AIMessageChunk(content=heard))
