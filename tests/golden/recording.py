"""Record what a request does, without what differs from run to run."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sarguard import AuditLog, Done, Reply, SafeAudioLLM, SarguardError
from tests.golden.inputs import BUNDLES, Case, calibrated, tiny_model
from tests.tiny import leaning

VARIES = {
    *("audit_id", "calibration_digest", "commitment", "content_id", "created", "key"),
    *("key_id", "log", "mark", "mark_key", "mono_ns", "origin", "prev", "request"),
    *("seq", "session", "text_mark", "time", "timings", "vectors_digest", "writer"),
}
"""Fields whose values differ from run to run or from machine to machine."""


_LONG = re.compile(r"-?\d+\.\d{7,}")
"""A score within words, which is no more exact than others."""


async def _collect(stream: Any) -> list[object]:  # noqa: ANN401
    return [event async for event in stream]


WAYS: dict[str, Callable[[SafeAudioLLM, Any], object]] = {
    "generate": lambda client, ask: client.generate(**ask),
    "batch": lambda client, asks: client.generate_batch(asks),
    "stream": lambda client, ask: list(client.stream(**ask)),
    "agenerate": lambda client, ask: asyncio.run(client.agenerate(**ask)),
    "astream": lambda client, ask: asyncio.run(_collect(client.astream(**ask))),
}


@contextmanager
def watching(model: Any, tokenizer: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    """Note the tokens that a model is given, and the last that is made into text.

    Prompts are noted as rows, length and hash, later passes as their rows' tokens,
    and every pass with the size of its scores, in which any change of steering shows.
    """
    seen: dict[str, Any] = {"prompts": [], "fed": "", "last": None, "sizes": []}
    decode = tokenizer.decode

    def look(_model: object, _args: object, given: dict[str, Any], out: Any) -> None:  # noqa: ANN401
        ids = given["input_ids"]
        scores = out.logits
        if scores is not None and scores.shape[1]:
            seen["sizes"].append(float(scores[:, -1].float().norm()))
        if ids.shape[1] == 1:
            seen["fed"] += f" {','.join(map(str, ids[:, 0].tolist()))}"
        else:
            digest = sha256(str(ids.tolist()).encode()).hexdigest()[:16]
            seen["prompts"].append([*ids.shape, digest])

    def noting(tokens: Any, **given: Any) -> Any:  # noqa: ANN401
        seen["last"] = int(tokens[-1]) if len(tokens) else seen["last"]
        return decode(tokens, **given)

    hook = model.register_forward_hook(look, with_kwargs=True)
    tokenizer.decode = noting
    try:
        yield seen
    finally:
        del tokenizer.decode
        hook.remove()


def record_tiny(case: Case, folder: Path) -> Any:  # noqa: ANN401
    """Return what a request to a tiny model does, from the opening of its client."""
    model, processor = tiny_model(case.family)
    parts = SimpleNamespace(model=model, tokenizer=processor.tokenizer)
    path = folder / "audit.db"
    found: dict[str, Any] = {"ledger": []}
    try:
        with SafeAudioLLM.from_model(
            model,
            processor,
            bundle=BUNDLES / (case.bundle or case.family),
            audit=path,
            name="tiny",
            **case.options(),
        ) as client:
            if case.unhooked:
                model.get_decoder().layers[1]._forward_hooks.clear()
            likes = leaning(parts, *case.likes) if case.likes else nullcontext()
            with likes, watching(model, parts.tokenizer) as found["tokens"]:
                found["said"] = plain(WAYS[case.way](client, case.arguments()))
    except (SarguardError, TypeError) as error:
        found["said"] = _described(error)
    if path.exists():
        found["ledger"] = plain(_by_request(AuditLog.open(path, read_only=True)))
    if case.way == "batch":
        # Who shares a batch, and who ends first, depends on the machine's load.
        found.pop("tokens", None)
    return found


def _by_request(log: AuditLog) -> list[dict[str, Any]]:
    """Return a ledger's records, those of a request where it began."""
    records = [json.loads(entry.data) for entry in log.entries()]
    begun: dict[object, int] = {}
    for record in records:
        begun.setdefault(record.get("audit_id", record["seq"]), record["seq"])
    return sorted(records, key=lambda r: begun[r.get("audit_id", r["seq"])])


def open_reference(folder: Path) -> SafeAudioLLM:
    """Return a client of the reference model with a ledger."""
    ledger = folder / "audit.db"
    return SafeAudioLLM.from_pretrained("reference", audit=ledger, progress=False)


def record_reference(client: SafeAudioLLM, case: Case) -> Any:  # noqa: ANN401
    """Return what a request to the reference model does."""
    reply = client.generate(max_new_tokens=8, **case.arguments())
    if client.audit is None or reply.audit_id is None:
        raise RuntimeError("the request was not recorded")
    records = [json.loads(e.data) for e in client.audit.request(reply.audit_id)]
    return {"said": plain(reply), "ledger": plain(records)}


def record_calibration() -> Any:  # noqa: ANN401
    """Return the card that calibration writes, without the versions of packages."""
    card = calibrated().card.model_dump(mode="json")
    return plain({k: v for k, v in card.items() if not k.endswith("_version")})


def plain(value: Any) -> Any:  # noqa: ANN401
    """Return replies, events and records as plain values, without what varies."""
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, Done):
        return {"event": "Done", **plain(value.reply)}
    if isinstance(value, Reply):
        return plain(value.to_dict())
    if dataclasses.is_dataclass(value):
        fields = {
            f.name: str(getattr(value, f.name)) for f in dataclasses.fields(value)
        }
        return {"event": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {k: "*" if k in VARIES and v else plain(v) for k, v in value.items()}
    if isinstance(value, str):
        return _LONG.sub(lambda number: f"{float(number[0]):.4g}", value)
    return value


def _described(error: Exception) -> dict[str, str]:
    # Python's own message begins with the name of an internal class.
    said = str(error).rpartition("() ")[2] if type(error) is TypeError else str(error)
    return {"error": type(error).__name__, "message": said}
