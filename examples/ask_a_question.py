"""Ask the reference model a harmful spoken question and a matched harmless one."""

from sarguard import SafeAudioLLM
from sarguard.datasets import load_clips

with SafeAudioLLM.from_pretrained("reference") as llm:
    for clip in load_clips("demo")[:2]:
        reply = llm.generate(clip.read_bytes(), "Answer the question in the audio.")
        print(f"asked: {clip.text}\n{reply.outcome}: {reply.text}\n")
