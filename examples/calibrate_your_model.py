"""Make a model's steering bundle, save it, and answer behind it.

    python examples/calibrate_your_model.py [MODEL] [--pairs N] [--output DIR]

MODEL is "reference", a checkpoint directory or a model id on a hub. The default of 12
pairs is for a quick look; use all 240 for a bundle that you mean to keep, as
`SafeAudioLLM.from_pretrained(MODEL, calibrate=True)` and, in a shell,
`sarguard calibrate MODEL -o DIR` do.
"""

from argparse import ArgumentParser

from sarguard import SafeAudioLLM
from sarguard.calibration.build import calibrate
from sarguard.datasets import load_clips, load_pairs
from sarguard.models.loading import load_model
from sarguard.reference.assemble import ensure_reference

parser = ArgumentParser(description="Make a model's steering bundle.")
parser.add_argument("model", nargs="?", default="reference")
parser.add_argument("--pairs", type=int, default=12, help="at least 11, at most 240")
parser.add_argument("--output", default="my-bundle", help="directory of the bundle")
parser.add_argument(
    "--allow-no-refusal",
    action="store_true",
    help="make a bundle of a model that does not refuse, which guards nothing",
)
options = parser.parse_args()

path = ensure_reference() if options.model == "reference" else options.model
loaded = load_model(path)
pairs = load_pairs("calibration", sample_rate=loaded.sampling_rate, limit=options.pairs)
bundle = calibrate(loaded, pairs, needs_refusal=not options.allow_no_refusal)
print(f"saved: {bundle.save(options.output)} ({bundle.card.pairs} pairs)")

clip = load_clips("demo", "safe")[0]
# From now on: SafeAudioLLM.from_pretrained(options.model, bundle=options.output)
with SafeAudioLLM.from_loaded(loaded, bundle) as llm:
    reply = llm.generate(clip.read_bytes(), "Answer the question in the audio.")
print(f"asked: {clip.text}\n{reply.outcome}: {reply.text}")
