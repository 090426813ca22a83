"""A LangChain chat model over a guarded client."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from langchain_core import language_models
from langchain_core.caches import BaseCache
from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompt_values import ChatPromptValue, PromptValue
from pydantic import ConfigDict, Field, field_validator

from langchain_sarguard.audio_handles import (
    AudioStore,
    default_audio_store,
    detach_audio,
)
from langchain_sarguard.calls import CALL_OPTIONS, ClientCall, read_options
from langchain_sarguard.errors import InvalidInputError
from langchain_sarguard.guarded_runnables import GuardedRunnable, check_configurable
from langchain_sarguard.messages_in import LostAudio, parse_messages
from langchain_sarguard.messages_out import (
    PROVIDER,
    ResponseBuilder,
    raise_unless_answered,
)
from langchain_sarguard.structured_output import METHOD, Schema, structured_output
from sarguard import Reply, SafeAudioLLM

if TYPE_CHECKING:
    from langchain_core.language_models import ModelProfile
    from langchain_core.language_models.base import LangSmithParams
    from langchain_core.outputs import LLMResult
    from langchain_core.runnables import Runnable, RunnableConfig

# The rest is the guard's: whoever sends a configuration must not reach it.
_CONFIGURABLE = (*CALL_OPTIONS, "stop", "raise_on_refusal", "lost_audio")
_NO_TOOLS = "this model has no tools: leave them out, or put what they found into text."


class ChatSafeAudio(GuardedRunnable, BaseChatModel):  # type: ignore[misc]
    """Chat model for spoken and written messages, guarded by SARSteer.

    Human messages carry clips as audio blocks, or name them; see `audio_message` and
    `langchain_sarguard.content_blocks`. Callbacks, tracers and logs get the names
    only. Any number of threads and tasks may call it; they share the one model.

    A refusal, and the text in place of an answer whose steering could not be proven,
    are messages with the outcome in `response_metadata` and a refusal block in
    `content_blocks`; with `raise_on_refusal` they are errors.
    """

    model_config = ConfigDict(populate_by_name=True)

    client: SafeAudioLLM = Field(exclude=True, repr=False, frozen=True)
    """The guarded model; share one between chat models rather than loading twice."""
    audio_store: AudioStore = Field(
        default_factory=default_audio_store, exclude=True, repr=False, frozen=True
    )
    """The store of the clips that messages name."""
    max_tokens: int = Field(default=128, ge=1)
    """Maximum length of an answer, in tokens."""
    temperature: float = Field(default=0.0, ge=0)
    """0 for greedy decoding."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Probability mass to sample from."""
    seed: int | None = None
    """Seed of sampling, for repeatable answers."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds from the call to the answer, the queue included; None waits."""
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    """Stop sequences; an answer ends before the first of them."""
    raise_on_refusal: bool = False
    """Raise `AnswerRefusedError` or `AnswerFailedError` where there is no answer."""
    lost_audio: LostAudio = "raise"
    """What to do where the clip of an earlier message is gone: "raise", or "note"."""
    cache: BaseCache | bool | None = Field(default=False, exclude=True, frozen=True)
    """Always off: a cache answers without the guard and without a record."""

    @classmethod
    def from_client(cls, client: SafeAudioLLM, **settings: Any) -> ChatSafeAudio:
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
                "spelling; settings of the model are given to SafeAudioLLM."
            )
        return cls(client=client, **settings)

    @classmethod
    def from_pretrained(
        cls, id_or_path: str | os.PathLike[str], **settings: Any
    ) -> ChatSafeAudio:
        """Load a model, guard it, and return a chat model over it.

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
        # Traced, and part of cache keys: two guards must never look the same.
        policy = self.client.policy
        return {
            "model_name": self.model_name,
            "alpha": self.client.alpha,
            "bundle_digest": self.client.bundle.digest,
            "policy": policy.digest,
            "tier": str(policy.steering.tier),
            "stop_sequences": self.stop,
            **{name: getattr(self, name) for name in CALL_OPTIONS},
        }

    def _get_ls_params(
        self,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = PROVIDER
        params["ls_model_name"] = kwargs.get("model", self.model_name)
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        profile: dict[str, Any] = {
            "name": self.model_name,
            "open_weights": True,
            "text_inputs": True,
            "audio_inputs": True,
            "image_inputs": False,
            "video_inputs": False,
            "pdf_inputs": False,
            "text_outputs": True,
            "audio_outputs": False,
            "image_outputs": False,
            "tool_calling": False,
            "structured_output": find_spec("llguidance") is not None,
            "reasoning_output": False,
            "temperature": True,
        }
        # Older versions of langchain-core know fewer keys.
        known = get_type_hints(language_models.ModelProfile)
        found = {key: value for key, value in profile.items() if key in known}
        return cast("ModelProfile", found)

    def bind_tools(self, *_: Any, **__: Any) -> Any:
        """Refuse; the model has no tools.

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
        **others: Any,
    ) -> Runnable[Any, Any]:
        """Return a model whose answers follow a schema, by constrained decoding.

        The schema is appended to the last message. The model may still decline: that
        raises `AnswerRefusedError`, or is the `parsing_error` with `include_raw`. Needs
        llguidance.

        Args:
            schema: A JSON schema with a title, a pydantic class or a TypedDict.
            method: "json_schema"; there is no other.
            include_raw: Return a dict of `raw`, `parsed` and `parsing_error`.
            strict: False allows properties that the schema does not name.

        Raises:
            InvalidInputError: There is no such method or argument.
            ValueError: The schema is of another kind.
        """
        if method != METHOD or others:
            given = ", ".join([f"method={method!r}", *others])
            raise InvalidInputError(
                f"structured output was asked for with {given}: this model has no "
                f"tools, it follows schemas. Use method={METHOD!r} with include_raw "
                "and strict."
            )
        return structured_output(self, schema, include_raw=include_raw, strict=strict)

    def configurable_fields(self, **kwargs: Any) -> Any:
        """Return this model with settings that a configuration may set.

        Raises:
            InvalidInputError: A field is the guard's.
        """
        check_configurable(kwargs, _CONFIGURABLE)
        return super().configurable_fields(**kwargs)

    def astream_events(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Stream events; the first of them repeats the input, without its audio."""
        # The first event is made of the input as it was given, by no callback.
        messages = self._convert_input(input).to_messages()
        return super().astream_events(messages, config, **kwargs)

    def generate(
        self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any
    ) -> LLMResult:
        """Answer several conversations; callbacks get the names of clips only."""
        # Called directly, it does not go through `_convert_input`. Messages that do
        # both are not changed again: their clips are handles already.
        detached = [self._detach(conversation) for conversation in messages]
        return super().generate(detached, *args, **kwargs)

    async def agenerate(
        self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any
    ) -> LLMResult:
        """Answer several conversations without blocking the event loop."""
        detached = [self._detach(conversation) for conversation in messages]
        return await super().agenerate(detached, *args, **kwargs)

    def _convert_input(self, model_input: Any) -> PromptValue:
        # langchain-core calls this first, and its callbacks with what it returns: the
        # one place before any tracer on the way from `invoke` and `stream`.
        messages = super()._convert_input(model_input).to_messages()
        return ChatPromptValue(messages=self._detach(messages))

    def _detach(self, messages: list[BaseMessage]) -> list[BaseMessage]:
        # Checked for each call: `model_copy` sets fields without validating them.
        if self.cache is not False:
            raise InvalidInputError(
                "a cache was put on a guarded model: a hit would be an answer without "
                "the guard and without a record. Set cache to False."
            )
        return detach_audio(messages, self.audio_store)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        builder = self._builder()
        with self._call(messages, stop, kwargs).events() as events:
            added = [builder.add(event) for event in events]
        # The last event is always `Done`, which has the reply.
        return self._result(builder, added[-1])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        builder = self._builder()
        async with self._call(messages, stop, kwargs).aevents() as events:
            added = [builder.add(event) async for event in events]
        return self._result(builder, added[-1])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        builder = self._builder()
        with self._call(messages, stop, kwargs).events() as events:
            for event in events:
                chunk = self._chunk(builder, builder.add(event))
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
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        builder = self._builder()
        async with self._call(messages, stop, kwargs).aevents() as events:
            async for event in events:
                chunk = self._chunk(builder, builder.add(event))
                if chunk is None:
                    continue
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _builder(self) -> ResponseBuilder:
        policy = self.client.policy
        return ResponseBuilder(
            model_name=self.model_name,
            policy=f"{policy.id} {policy.version} {policy.digest}",
        )

    def _call(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        overrides: Mapping[str, Any],
    ) -> ClientCall:
        return ClientCall(
            client=self.client,
            parse=partial(
                parse_messages, messages, self.audio_store, lost_audio=self.lost_audio
            ),
            options=read_options(self, overrides, self.stop if stop is None else stop),
        )

    def _result(self, builder: ResponseBuilder, added: str | Reply) -> ChatResult:
        if isinstance(added, str):
            raise RuntimeError("the answer ended without its reply")
        message = builder.message(added)
        if self.raise_on_refusal:
            raise_unless_answered(message)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunk(
        self, builder: ResponseBuilder, added: str | Reply
    ) -> ChatGenerationChunk | None:
        """Return the chunk of what an event added, or None where it added nothing."""
        if isinstance(added, Reply):
            if self.raise_on_refusal:
                raise_unless_answered(builder.message(added))
            return ChatGenerationChunk(message=builder.last_chunk(added))
        # The error that is about to end the stream carries the text.
        silent = self.raise_on_refusal and builder.refusal is not None
        if silent or not added:
            return None
        return ChatGenerationChunk(message=AIMessageChunk(content=added))
