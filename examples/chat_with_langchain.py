"""Talk to a guarded model through LangChain: a spoken question, then a written one."""

import base64

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_sarguard import ChatSafeAudio

from sarguard.calibration_data import load_clips


def show(reply: AIMessage) -> None:
    """Print an answer, and how the request ended."""
    print(f"{reply.response_metadata['outcome']}: {reply.text}")


clip = load_clips("demo", "safe")[0]
sound = base64.b64encode(clip.read_bytes()).decode()
audio = {"type": "audio", "base64": sound, "mime_type": "audio/ogg"}

chat = ChatSafeAudio.from_pretrained("reference", max_tokens=64)
messages: list[BaseMessage] = [
    HumanMessage(["Answer the question in the audio.", audio])
]
print(f"asked: {clip.text}")
show(first := chat.invoke(messages))
show(chat.invoke([*messages, first, HumanMessage("Tell me more.")]))
