"""A spoken conversation in a LangGraph agent that remembers it without audio."""

from langchain_sarguard import ChatSafeAudio, audio_message
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from sarguard.datasets import load_clips

chat = ChatSafeAudio.from_pretrained("reference", max_tokens=64, lost_audio="note")


def answer(state: MessagesState) -> MessagesState:
    """Answer with the guarded model."""
    return {"messages": [chat.invoke(state["messages"])]}


graph = StateGraph(MessagesState)
graph.add_node("answer", answer)
graph.add_edge(START, "answer")
saver = InMemorySaver()
agent = graph.compile(checkpointer=saver)

config = {"configurable": {"thread_id": "call-1"}}
for clip in load_clips("demo", "safe")[:2]:
    question = audio_message(clip.read_bytes(), "Answer the question in the audio.")
    reply = agent.invoke({"messages": [question]}, config)["messages"][-1]
    print(f"asked: {clip.text}\n{reply.response_metadata['outcome']}: {reply.text}")
print("remembered:", len(agent.get_state(config).values["messages"]), "messages")
