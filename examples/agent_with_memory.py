"""A spoken conversation in a LangGraph agent, remembered without keeping a voice."""

from langchain_sarguard import ChatSafeAudio, audio_message
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from sarguard.datasets import load_clips

chat = ChatSafeAudio.from_pretrained("reference", max_tokens=64, lost_audio="note")


def answer(state: MessagesState) -> MessagesState:
    """Let the guarded model take its turn."""
    return {"messages": [chat.invoke(state["messages"])]}


graph = StateGraph(MessagesState)
graph.add_node("answer", answer)
graph.add_edge(START, "answer")
saver = InMemorySaver()
agent = graph.compile(checkpointer=saver)

caller = {"configurable": {"thread_id": "caller-1"}}
for clip in load_clips("demo", "safe")[:2]:
    asked = audio_message(clip.read_bytes(), "Answer the question in the audio.")
    reply = agent.invoke({"messages": [asked]}, caller)["messages"][-1]
    print(f"asked: {clip.text}\n{reply.response_metadata['outcome']}: {reply.text}")
print("remembered:", len(agent.get_state(caller).values["messages"]), "messages")
