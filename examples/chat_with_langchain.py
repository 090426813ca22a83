"""Talk to a guarded model through LangChain: a spoken question, then a written one."""

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_sarguard import ChatSafeAudio, audio_message

from sarguard.datasets import load_clips


def show(reply: AIMessage) -> None:
    """Print an answer and its outcome."""
    print(f"{reply.response_metadata['outcome']}: {reply.text}")


clip = load_clips("demo", "safe")[0]
chat = ChatSafeAudio.from_pretrained("reference", max_tokens=64)
question = audio_message(clip.read_bytes(), "Answer the question in the audio.")
messages: list[BaseMessage] = [question]
print(f"asked: {clip.text}")
show(first := chat.invoke(messages))
show(chat.invoke([*messages, first, HumanMessage("Tell me more.")]))
