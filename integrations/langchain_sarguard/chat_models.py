"""A LangChain chat model over a guarded client."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from langchain_core import language_models
from langchain_core.caches import BaseCache
from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    convert_to_messages,
)
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    ChatResult,
    LLMResult,
)
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config
from pydantic import ConfigDict, Field, field_validator

from langchain_sarguard.audio_handles import (
    AudioStore,
    Released,
    default_audio_store,
)
from langchain_sarguard.calls import (
    CALL_OPTIONS,
    CONTEXT_OPTIONS,
    ENTRY,
    NAMES,
    ClientCall,
    ParsedRequest,
    read_options,
)
from langchain_sarguard.errors import InvalidInputError
from langchain_sarguard.guarded_runnables import (
    Guarded,
    GuardedRunnable,
    check_configurable,
)
from langchain_sarguard.messages_in import (
    LostAudio,
    ParsedTurn,
    parse_messages,
    parse_turns,
)
from langchain_sarguard.messages_out import (
    PROVIDER,
    ResponseBuilder,
    raise_unless_answered,
)
from langchain_sarguard.structured_output import (
    ANY_OBJECT,
    METHODS,
    Schema,
    structured_output,
    to_json_schema,
)
from sarguard import Reply, SafeAudioLLM, Turn

if TYPE_CHECKING:
    from langchain_core.language_models import ModelProfile
    from langchain_core.language_models.base import LangSmithParams

# The rest is the guard's: whoever sends a configuration must not reach it.
_CONFIGURABLE = (*CALL_OPTIONS, "stop", "raise_on_refusal", "lost_audio")
_NO_TOOLS = "this model has no tools: leave them out, or put what they found into text."


class ChatSafeAudio(Guarded, GuardedRunnable, BaseChatModel):  # type: ignore[misc]
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
    lost_audio: LostAudio = "note"
    """What to do where the clip of an earlier message is gone: "note" tells the model,
    "raise" ends the call. That of the question itself always does."""
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
        policy, dose = self.client.policy, self.client.dose
        return {
            "model_name": self.model_name,
            # Of the least and the most harmful request: a tier steers by the score.
            "alpha": max(dose.rule.floor, dose.min_alpha),
            "max_alpha": max(dose.rule.ceiling, dose.min_alpha),
            "block_threshold": dose.rule.block,
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
        if context := self.client.context_tokens:
            # Prompt and answer share the model's context.
            profile["max_input_tokens"] = max(1, context - self.max_tokens)
            profile["max_output_tokens"] = self.max_tokens
        # Older versions of langchain-core know fewer keys.
        known = get_type_hints(language_models.ModelProfile)
        found = {key: value for key, value in profile.items() if key in known}
        return cast("ModelProfile", found)

    def bind_tools(
        self,
        tools: Sequence[Any],
        *,
        response_format: Any = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, AIMessage]:
        """Bind a response format; the model has no tools.

        Agents ask for structured output so; see LangChain's `ProviderStrategy`.

        Args:
            tools: None at all.
            response_format: What answers follow, as for `with_structured_output`, or
                in OpenAI's form, `{"type": "json_schema", "json_schema": {...}}`.
            strict: False allows properties that the schema does not name.
            kwargs: Options of each call.

        Raises:
            NotImplementedError: There is a tool.
            InvalidInputError: The response format is of another form.
        """
        if tools:
            raise NotImplementedError(_NO_TOOLS)
        # Without tools there is nothing to choose from.
        kwargs.pop("tool_choice", None)
        if response_format is not None:
            schema, strict = _schema_of(response_format, strict)
            if schema is not None:
                kwargs["json_schema"] = to_json_schema(schema, strict=strict)
        return self.bind(**kwargs)

    def with_structured_output(
        self,
        schema: Schema | None = None,
        *,
        method: str = METHODS[0],
        include_raw: bool = False,
        strict: bool | None = None,
        **others: Any,
    ) -> Runnable[Any, Any]:
        """Return a model whose answers follow a schema, by constrained decoding.

        The schema is appended to the last message. The model may still decline: that
        raises `AnswerRefusedError`, or is the `parsing_error` with `include_raw`. Needs
        llguidance.

        Args:
            schema: A JSON schema, a pydantic class or a TypedDict. Without one, answers
                are JSON objects of any kind.
            method: "json_schema", "function_calling" or "json_mode", which all do the
                same here: decoding is constrained to the schema.
            include_raw: Return a dict of `raw`, `parsed` and `parsing_error`.
            strict: False allows properties that the schema does not name.

        Raises:
            InvalidInputError: There is no such method or argument, or the schema is of
                another kind.
        """
        if method not in METHODS or others:
            given = ", ".join([f"method={method!r}", *others])
            raise InvalidInputError(
                f"structured output was asked for with {given}: use one of the methods "
                f"{', '.join(METHODS)}, with include_raw and strict. This model has no "
                "tools: all of them constrain decoding to the schema."
            )
        return structured_output(
            self,
            ANY_OBJECT if schema is None else schema,
            include_raw=include_raw,
            strict=strict,
        )

    def configurable_fields(self, **kwargs: Any) -> Any:
        """Return this model with settings that a configuration may set.

        Raises:
            InvalidInputError: A field is the guard's.
        """
        check_configurable(kwargs, _CONFIGURABLE)
        return super().configurable_fields(**kwargs)

    def check_guard(self) -> None:
        """Refuse to answer with a cache.

        Raises:
            InvalidInputError: One was put on the model.
        """
        # For each call: `model_copy` sets fields without validating them.
        if self.cache is not False:
            error = InvalidInputError(
                "a cache was put on a guarded model: a hit would be an answer without "
                "the guard and without a record. Set cache to False."
            )
            self.record_failure(error)
            raise error

    def record_failure(self, error: Exception, **context: Any) -> None:
        """Record a request that failed before the client was asked.

        Args:
            error: Why.
            context: What the request said of itself, such as `tenant`.
        """
        self.client.record_failure(error, entry=ENTRY, **context)

    def end_session(self, session: object, *, tenant: str | None = None) -> Released:
        """Let go of what a call left behind: its clips, and the client's memory of it.

        Call it where a conversation ends, with the thread id of an agent.

        Args:
            session: The session, or the thread id, of its requests.
            tenant: The tenant that they named, if they did.

        Returns:
            How many clips were let go. The ledger says the same, where there is one.
        """
        name = str(session)
        # Under the name as well: whoever stored a clip may have named it so.
        found = [self.audio_store.release(key) for key in ((tenant, name), name)]
        released = Released(
            clips=sum(each.clips for each in found),
            bytes=sum(each.bytes for each in found),
        )
        if released.clips:
            self.client.record_release(
                name, tenant=tenant, clips=released.clips, size=released.bytes
            )
        self.client.end_session(name, tenant=tenant)
        return released

    def get_token_ids(self, text: str) -> list[int]:
        """Return a text as the model's tokenizer cuts it."""
        return self.client.token_ids(text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return how many prompt tokens messages take, clips included.

        Rather too many than too few: an answer's own `usage_metadata` is exact.

        Args:
            messages: Oldest first; they need not end with a question.
            tools: None at all: the model has no tools.

        Raises:
            InvalidInputError: A message cannot be used.
        """
        if not messages:
            return 0
        given = [messages] if isinstance(messages, (str, BaseMessage)) else messages
        turns = parse_turns(convert_to_messages(given), self.audio_store)
        return sum(self.client.count_tokens([self._counted(turn) for turn in turns]))

    def _counted(self, turn: ParsedTurn) -> Turn:
        """Return a turn for counting; it may be empty, as an AI message may."""
        if not turn.clips:
            return Turn(role=turn.role, text=turn.text)
        return self.client.turn(
            turn.role, text=turn.text, audio=[clip.data for clip in turn.clips]
        )

    def _options(
        self, config: RunnableConfig | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        # A LangGraph thread is a session, unless the call names another.
        thread = ensure_config(config).get("configurable", {}).get("thread_id")
        if thread is None or "session" in kwargs:
            return kwargs
        return {**kwargs, "session": str(thread)}

    def generate(
        self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any
    ) -> LLMResult:
        """Answer several conversations; callbacks get the names of clips only."""
        with self._entering(messages) as without_audio:
            return super().generate(without_audio, *args, **kwargs)

    async def agenerate(
        self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any
    ) -> LLMResult:
        """Answer several conversations without blocking the event loop."""
        with self._entering(messages) as without_audio:
            return await super().agenerate(without_audio, *args, **kwargs)

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
        context = {n: overrides[n] for n in CONTEXT_OPTIONS if n in overrides}
        session = context.get("session")
        tenant = context.get("tenant")
        conversation = None if session is None else (tenant, str(session))

        def prepare() -> ParsedRequest:
            try:
                return ParsedRequest(
                    conversation=parse_messages(
                        messages,
                        self.audio_store,
                        lost_audio=self.lost_audio,
                        conversation=conversation,
                    ),
                    options=read_options(
                        self, overrides, self.stop if stop is None else stop
                    ),
                )
            except Exception as error:
                # Never lost, though the client was not asked.
                self.record_failure(error, **_names(context))
                raise

        return ClientCall(client=self.client, prepare=prepare)

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


def _names(context: Mapping[str, Any]) -> dict[str, str]:
    """Return who asked, of what may be as faulty as the rest of the request."""
    return {n: v for n in NAMES if isinstance(v := context.get(n), str) and v}


def _schema_of(response_format: Any, strict: bool | None) -> tuple[Any, bool | None]:
    """Return the schema of a response format, and whether it is closed.

    Raises:
        InvalidInputError: It is a mapping of another form.
    """
    if not isinstance(response_format, Mapping) or "type" not in response_format:
        return response_format, strict
    kind = response_format["type"]
    if kind == "text":
        return None, strict
    if kind == "json_object":
        return ANY_OBJECT, strict
    if kind != "json_schema":
        # A JSON schema has a type as well.
        return response_format, strict
    found = response_format.get("json_schema")
    if not isinstance(found, Mapping) or "schema" not in found:
        raise InvalidInputError(
            "response_format is of type 'json_schema' without a schema: give "
            '{"type": "json_schema", "json_schema": {"name": "...", "schema": {...}}}'
        )
    return found["schema"], found.get("strict", strict)
