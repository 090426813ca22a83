"""The suites of langchain-tests over the chat model, without a network.

The same suites run over a client without a model, over the real architecture with
tiny random weights, and over the reference model.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_socket  # type: ignore[import-untyped]
from langchain_core.messages import AIMessage
from langchain_sarguard import ChatSafeAudio, audio_message
from langchain_tests import integration_tests, unit_tests

from sarguard import SafeAudioLLM, SteeringBundle
from tests import tiny
from tests.langchain.fakes import FakeClient, wav


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the sockets, and give the suites a clip in place of a download."""
    clip = base64.b64encode(wav(1.0)).decode()
    monkeypatch.setattr(
        "langchain_tests.integration_tests.chat_models._get_base64_from_url",
        lambda _: clip,
    )
    pytest_socket.disable_socket(allow_unix_socket=True)
    yield
    pytest_socket.enable_socket()


class Suite:
    """Settings of a suite; there are no tools, so the tests of tools skip."""

    client: SafeAudioLLM
    max_tokens = 12

    @property
    def chat_model_class(self) -> type[ChatSafeAudio]:
        return ChatSafeAudio

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"client": self.client, "max_tokens": self.max_tokens}

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return True

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema"}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_audio_inputs(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return False

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:
        return {"invoke": ["audio_input"], "stream": ["audio_input"]}

    def invoke_with_audio_input(self, *, stream: bool = False) -> AIMessage:
        chat = ChatSafeAudio.from_client(self.client, max_tokens=12)
        message = audio_message(wav(1.0), "What is it?")
        if not stream:
            return chat.invoke([message])
        first, *rest = chat.stream([message])
        for chunk in rest:
            first += chunk
        return first


class TestUnit(Suite, unit_tests.ChatModelUnitTests):
    client = FakeClient()

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"client": self.client}


class TestOverAFake(Suite, integration_tests.ChatModelIntegrationTests):
    client = FakeClient("Hi. The capital of France is Paris.", follows_schema=True)


class TestOverATinyModel(Suite, integration_tests.ChatModelIntegrationTests):
    max_tokens = 40

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _load(cls, tiny_bundle: SteeringBundle) -> Iterator[None]:
        loaded = tiny.shared()
        with (
            SafeAudioLLM.from_model(
                loaded.model,
                loaded.processor,
                bundle=tiny_bundle,
                alpha=0.1,
                name="tiny",
            ) as client,
            # A model of random weights never closes a string by itself.
            tiny.leaning(loaded, '"', "{"),
        ):
            cls.client = client
            yield


@pytest.mark.reference
class TestOverTheReferenceModel(Suite, integration_tests.ChatModelIntegrationTests):
    max_tokens = 48

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _load(cls) -> Iterator[None]:
        with SafeAudioLLM.from_pretrained("reference", progress=False) as client:
            cls.client = client
            yield
