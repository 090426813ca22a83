"""From a WAV file to a spoken WAV file, with a guarded answer.

    python examples/voice_chain.py [QUESTION] [ANSWER.wav]

Speaks with espeak-ng (apt-get install espeak-ng).
"""

import shutil
import subprocess
import sys
from pathlib import Path

from langchain_core.messages import AIMessage
from langchain_sarguard import ChatSafeAudio, SafeAudioRunnable

from sarguard.datasets import load_clips

if shutil.which("espeak-ng") is None:
    sys.exit("skipped: espeak-ng is not installed (apt-get install espeak-ng)")

target = Path(sys.argv[2] if len(sys.argv) > 2 else "answer.wav")


def speak(reply: AIMessage) -> Path:
    """Write an answer, or the text in its place, to a file as speech."""
    print(f"{reply.response_metadata['outcome']}: {reply.text}")
    command = ["espeak-ng", "-w", str(target), "--stdin"]
    subprocess.run(command, input=reply.text.encode(), check=True)
    return target


demo = load_clips("demo", "safe")[0].read_bytes()
question = sys.argv[1] if len(sys.argv) > 1 else demo
chat = ChatSafeAudio.from_pretrained("reference", max_tokens=64)
chain = SafeAudioRunnable(chat, text="Answer the question in the audio.") | speak
print("spoken:", chain.invoke(question))
