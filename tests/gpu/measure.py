"""Check and time on a GPU what a CPU cannot show; see `run.sh`.

Checks are on a small random model, where CPU and GPU can be compared in seconds;
figures at the geometry of a 7B model, whose weights need no meaning to cost the same.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from sarguard.bench.rows import Measured, Row
from sarguard.bench.suite import Effort, Part, run_bench
from sarguard.bench.synthetic import SEVEN_BILLION, noise_bundle, random_qwen2_audio
from sarguard.client import SafeAudioLLM
from sarguard.models.loading import load_model
from sarguard.models.transformers_api import installed_version
from sarguard.steering.steerer import Steerer
from sarguard.types import Outcome
from tests import tiny
from tests.compiled_steps import ALPHAS, graphs, logits_of, vectors_for

TINY_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
TINY_AUDIO = {
    "d_model": 64,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
}
VOCABULARY = 156_032
"""Of Qwen2-Audio-7B: its output layer is a part of what a step costs."""
EFFORT = Effort(tokens=32, repeats=5, pairs=24)
TINY_EFFORT = Effort(tokens=4, repeats=1, pairs=12)
PARTS: tuple[Part, ...] = ("decoding", "callers", "conversation", "calibration")
ASKED = {"audio": (tiny.clip(0.5), tiny.RATE), "text": "Hi.", "max_new_tokens": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that has to hold."""

    name: str
    held: bool
    found: str
    seconds: float


def same_tokens(device: str) -> str:
    """Check that a float32 model answers on the device what it answers on the CPU."""
    told = []
    for place in ("cpu", device):
        loaded = tiny.build()
        bundle = noise_bundle(loaded)
        loaded.model.to(place)
        with SafeAudioLLM.from_loaded(loaded, bundle, alpha=0.1) as client:
            reply = client.generate(**ASKED)
        _require(reply.outcome is not Outcome.ERROR_CLOSED, reply.guard.fault)
        told.append((reply.text, reply.guard.steered_positions))
    _require(told[0] == told[1], f"CPU {told[0]!r}, {device} {told[1]!r}")
    return f"{told[1][1]} positions steered, the same text as on the CPU"


def bfloat16_receipts(device: str) -> str:
    """Check that bfloat16 answers are steered and counted, in a batch."""
    loaded = tiny.build()
    loaded.model.to(device, torch.bfloat16)
    with SafeAudioLLM.from_loaded(loaded, noise_bundle(loaded), alpha=0.1) as client:
        replies = client.generate_batch([ASKED] * 4)
    for reply in replies:
        _require(reply.outcome is not Outcome.ERROR_CLOSED, reply.guard.fault)
        counted = (reply.guard.steered_positions, reply.usage.output_tokens)
        _require(counted[0] == counted[1], counted)
    return f"{len(replies)} answers in a batch, every token with its receipt"


def device_maps(device: str) -> str:
    """Check that a model placed by a device map answers as one moved by hand."""
    place: Any = {"": device}
    said, texts = [], set()
    with tempfile.TemporaryDirectory() as folder:
        made = tiny.shared()
        made.model.save_pretrained(folder)
        made.processor.save_pretrained(folder)
        for device_map in (None, place, "auto"):
            loaded = load_model(folder, device_map=device_map, progress=False)
            if device_map is None:
                loaded.model.to(device)
            bundle = noise_bundle(loaded)
            with SafeAudioLLM.from_loaded(loaded, bundle, alpha=0.1) as client:
                reply = client.generate(**ASKED)
            _require(reply.outcome is not Outcome.ERROR_CLOSED, reply.guard.fault)
            said.append(f"{device_map!r} on {loaded.device}")
            texts.add(reply.text)
    _require(len(texts) == 1, sorted(texts))
    return "; ".join(said)


def a_hook_that_goes(device: str) -> str:
    """Check that an answer fails closed where a layer's hook is gone."""
    loaded = tiny.build()
    loaded.model.to(device)
    with SafeAudioLLM.from_loaded(loaded, noise_bundle(loaded), alpha=0.1) as client:
        loaded.decoder.layers[1]._forward_hooks.clear()
        reply = client.generate(**ASKED)
    _require(reply.outcome is Outcome.ERROR_CLOSED, reply.outcome)
    return str(reply.guard.fault)[:60]


def compiled_steps(device: str) -> str:
    """Check that compiled steps, with CUDA graphs on a GPU, are steered like eager."""
    mode = "reduce-overhead" if device.startswith("cuda") else "default"
    loaded = tiny.build(layers=2)
    loaded.model.to(device)
    torch._dynamo.reset()
    with Steerer(loaded.decoder, vectors_for(loaded)) as steerer:
        eager = [logits_of(loaded, steerer, loaded.model, a) for a in ALPHAS]
        compiled = torch.compile(loaded.model, mode=mode)
        first = logits_of(loaded, steerer, compiled, ALPHAS[0])
        before = graphs()
        rest = [logits_of(loaded, steerer, compiled, a) for a in ALPHAS[1:]]
        after = graphs()
    _require(0 < before == after, f"{before} graphs, then {after}")
    apart = max(
        float((one - other).abs().max())
        for one, other in zip([first, *rest], eager, strict=True)
    )
    _require(apart < 1e-3, f"logits {apart:.1e} apart")
    return f"{before} graph(s) for three strengths, logits {apart:.0e} apart at most"


CHECKS: tuple[Callable[[str], str], ...] = (
    *(same_tokens, bfloat16_receipts, device_maps, a_hook_that_goes, compiled_steps),
)


def _require(held: bool, found: object) -> None:
    if not held:
        raise AssertionError(str(found))


def run_checks(device: str) -> Iterator[Check]:
    """Run every check; what one raises is its finding."""
    for check in CHECKS:
        said = (check.__doc__ or "").split("\n")[0]
        name = said.removeprefix("Check that ").rstrip(".")
        begun = time.perf_counter()
        try:
            held, found = True, check(device)
        except Exception as error:
            traceback.print_exc()
            held, found = False, f"{type(error).__name__}: {str(error)[:200]}"
        taken = time.perf_counter() - begun
        yield Check(name=name, held=held, found=found, seconds=taken)


def figures(device: str, *, small: bool) -> list[Row]:
    """Time the guard against the bare model, and calibration against the authors'."""
    tokenizer = tiny.shared().tokenizer
    text = TINY_TEXT if small else {**SEVEN_BILLION, "vocab_size": VOCABULARY}
    large = random_qwen2_audio(
        tokenizer,
        torch.device(device),
        text=text,
        audio=TINY_AUDIO if small else None,
    )
    effort = TINY_EFFORT if small else EFFORT
    return run_bench(large, effort=effort, parts=PARTS[:1] if small else PARTS)


def table(device: str, checks: list[Check], rows: list[Row], seconds: float) -> str:
    """Return the report in Markdown."""
    name = (
        torch.cuda.get_device_name(0)
        if device.startswith("cuda")
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    lines = [
        f"{name}, {datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}, "
        f"transformers {installed_version()}, {seconds:.0f} s in all.",
        "",
        "| check | | found |",
        "|---|---|---|",
        *(
            f"| {c.name} | {'holds' if c.held else '**fails**'} | {c.found} |"
            for c in checks
        ),
        "",
        "| figure | on | bar | median | |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if isinstance(row, Measured):
            verdict = "met" if row.met else "missed"
            lines.append(
                f"| {row.what} | {row.on} | {row.bar} | {row.median:.4g} | {verdict} |"
            )
        else:
            lines.append(f"| {row.what} | {row.on} | {row.bar} | - | {row.reason} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run everything, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 ... or cpu")
    parser.add_argument(
        "--tiny", action="store_true", help="time a tiny model: that it all runs"
    )
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU here: --device cpu --tiny shows that it runs")
    begun = time.perf_counter()
    checks = list(run_checks(options.device))
    rows = figures(options.device, small=options.tiny)
    text = table(options.device, checks, rows, time.perf_counter() - begun)
    sys.stdout.write(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    return 0 if all(check.held for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
