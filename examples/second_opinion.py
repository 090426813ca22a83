"""Answer behind a second opinion: a transcript, and a classifier of written requests.

The transcript is the reference model's own hearing, the classifier the one that ships
with sarguard; both run without a network once their weights are there.
"""

from sarguard import Policy, SafeAudioLLM
from sarguard.datasets import load_clips
from sarguard.opinions import reference_transcriber, request_classifier

policy = Policy.build(
    {
        "id": "second-opinion",
        "audit": {"required": False},
        "checks": {"rules": {"request-classifier": {"on_flag": "raise"}}},
    }
)
with SafeAudioLLM.from_pretrained(
    "reference",
    policy=policy,
    transcriber=reference_transcriber(),
    input_checks=[request_classifier()],
) as llm:
    for clip in load_clips("demo")[2:4]:
        reply = llm.generate(clip.read_bytes(), max_new_tokens=24)
        print(f"asked: {clip.text}\ntier: {reply.guard.tier}")
        print(f"{reply.outcome}: {reply.text}\n")
