"""Adding refusal vectors while a model answers (SARSteer, arXiv 2510.17633).

A token at absolute position p of its row is steered if and only if p >= T - 1,
with T the prompt's length, on every decoder layer:

    h_l[p] <- h_l[p] + alpha * r_l

With a cache this is the paper's "last position of every forward"; unlike that
rule it also holds when a forward carries several new positions or none. Rows are
left padded, so T is the same column for all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sarguard.errors import (
    ConfigurationError,
    NonFiniteActivationError,
    SteeringError,
    SteeringNotAppliedError,
    SteeringRemovedError,
)
from sarguard.models.layers import DecoderLayers
from sarguard.models.transformers_api import (
    advice,
    covers_more,
    passed_cache,
    untested_advice,
)
from sarguard.models.untyped import LayerOutput
from sarguard.steering.compiled import refuse_compiled
from sarguard.steering.device_vectors import Pristine, place, read_strengths
from sarguard.steering.hooks import BeginHook, LayerHook
from sarguard.steering.integrity import Anatomy
from sarguard.steering.receipt import Receipt
from sarguard.steering.residual import read_stream, write_stream
from sarguard.steering.vectors import vectors_digest

_MARK = "_sarguard_steerer"


class Steerer:
    """Steer a model's text decoder, and let nobody run it unsteered.

    While attached, a forward pass is possible only inside `guard`, which steers
    and counts, or inside `reading`, which is for measuring the bare model.
    """

    def __init__(
        self, decoder: DecoderLayers, vectors: Tensor, *, digest: str | None = None
    ) -> None:
        """Prepare vectors for a decoder.

        Args:
            decoder: The layers to steer.
            vectors: One vector a layer, shape (L, D).
            digest: What `vectors_digest` has to give for them, now and after every
                request; the default is what it gives now.

        Raises:
            ConfigurationError: The shape does not fit, or a value is not finite.
            SteeringError: The vectors differ from the digest.
        """
        expected = (len(decoder), decoder.hidden_size)
        if tuple(vectors.shape) != expected:
            raise ConfigurationError(
                f"vectors have shape {tuple(vectors.shape)}, the decoder's layers "
                f"need {expected}: were they computed for another model?"
            )
        if not bool(torch.isfinite(vectors).all()):
            raise ConfigurationError("vectors hold NaN or infinity: calibrate again")
        self._decoder = decoder
        self._vectors = place(vectors, decoder.layers)
        self._pristine = Pristine(self._vectors)
        self._digest = vectors_digest(vectors) if digest is None else digest
        self._anatomy = Anatomy(decoder)
        self._handles: list[RemovableHandle] = []
        self._strengths: dict[torch.device, Tensor] = {}
        self._receipt: Receipt | None = None
        self._thread: int | None = None
        self._may_read = False
        self._past = 0
        self._width = 0
        self._check_digest()

    @property
    def attached(self) -> bool:
        """Return whether the hooks were put on and not taken off by `detach`."""
        return bool(self._handles)

    @property
    def digest(self) -> str:
        """Return the digest that the resident vectors have to have."""
        return self._digest

    def attach(self) -> None:
        """Put the hooks on.

        Raises:
            SteeringError: This or another steerer is attached already.
            ConfigurationError: The model is compiled.
        """
        if getattr(self._decoder.owner, _MARK, None) is not None:
            raise SteeringError(
                "the model is guarded already: close the client that guards it first"
            )
        refuse_compiled(self._decoder.root)
        self._anatomy.check()
        owner = self._decoder.owner
        begin = BeginHook(self._begin_forward)
        self._handles = [owner.register_forward_pre_hook(begin, with_kwargs=True)]
        for index, layer in enumerate(self._decoder.layers):
            hook = LayerHook(index, self._steer)
            # First in line, so whatever else reads the layer sees it steered.
            self._handles.append(layer.register_forward_hook(hook, prepend=True))
        setattr(owner, _MARK, self)

    def detach(self) -> None:
        """Take the hooks off; the model is bare again."""
        for handle in self._handles:
            handle.remove()
        if self._handles:
            delattr(self._decoder.owner, _MARK)
        self._handles = []

    def __enter__(self) -> Steerer:
        self.attach()
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    @contextmanager
    def guard(
        self, *, prompt_length: int, alpha: float | Sequence[float] | Tensor, rows: int
    ) -> Iterator[Receipt]:
        """Steer every forward pass inside the block.

        Args:
            prompt_length: T, columns of the left-padded prompt.
            alpha: Strength, one for all rows or one a row; above 0 and finite.
            rows: Rows of the batch.

        Yields:
            The receipt that the hooks fill in; pass it to `verify`.

        Raises:
            ConfigurationError: A strength is out of range, or their number is wrong.
            SteeringError: The steerer is busy.
            SteeringRemovedError: The hooks are not on the model, or its layers were
                replaced.
        """
        strengths = read_strengths(alpha, rows)
        if prompt_length < 1:
            raise ConfigurationError(
                f"prompt_length is {prompt_length}: need 1 or more"
            )
        self._check_idle()
        self._check_hooks()
        self._anatomy.check()
        self._set_strengths(strengths)
        self._width = 0
        receipt = Receipt(
            prompt_length=prompt_length,
            alpha=tuple(float(a) for a in strengths),
            layers=len(self._decoder),
        )
        self._receipt, self._thread = receipt, threading.get_ident()
        try:
            yield receipt
        finally:
            self._receipt, self._thread = None, None
            receipt.closed = True

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let the bare model run inside the block, to measure or calibrate it.

        Raises:
            SteeringError: The steerer is busy.
        """
        self._check_idle()
        self._may_read, self._thread = True, threading.get_ident()
        try:
            yield
        finally:
            self._may_read, self._thread = False, None

    def verify(self, receipt: Receipt, *, output_tokens: int) -> None:
        """Check that every answer token was decided by steered states.

        Args:
            receipt: What `guard` gave, after its block.
            output_tokens: Tokens that the model chose for each row.

        Raises:
            SteeringRemovedError: Hooks are gone, layers were replaced, or the vectors
                were changed.
            SteeringNotAppliedError: A layer steered more or fewer positions than the
                last prompt token and each answer token that was fed back.
            NonFiniteActivationError: A steered state was not finite.
        """
        self._check_hooks()
        self._anatomy.check()
        _check_counts(receipt, output_tokens, whole=receipt.closed)
        if receipt.healthy is None or not bool(receipt.healthy.all()):
            raise NonFiniteActivationError(
                "a steered state holds NaN or infinity: lower alpha, or load the model "
                "in bfloat16 or float32"
            )
        self._check_digest()

    def check(self, receipt: Receipt, *, output_tokens: int) -> list[bool]:
        """Check the answers so far, inside the guard and before a token leaves it.

        Args:
            receipt: What `guard` gave.
            output_tokens: Tokens that the model chose for each row, the next included.

        Returns:
            Whether each row's steered states were finite.

        Raises:
            SteeringRemovedError: Hooks are gone, or vectors or strengths were changed.
            SteeringNotAppliedError: A layer steered more or fewer positions than it
                had to.
        """
        self._check_hooks()
        _check_counts(receipt, output_tokens, whole=True)
        if self._pristine.differs(self._vectors):
            self._check_digest()
        for strengths in self._strengths.values():
            if tuple(strengths[:, 0].tolist()) != receipt.alpha:
                raise SteeringRemovedError(
                    f"the resident strengths are {strengths[:, 0].tolist()}, expected "
                    f"{list(receipt.alpha)}: they were changed during the request"
                )
        return [] if receipt.healthy is None else receipt.healthy.tolist()

    def _check_idle(self) -> None:
        if self._thread is not None:
            raise SteeringError(
                "the steerer is busy with another request: serialise requests"
            )

    def _check_digest(self) -> None:
        resident = torch.stack([v.to("cpu") for v in self._vectors])
        found = vectors_digest(resident)
        if found != self._digest:
            raise SteeringRemovedError(
                f"the resident vectors have digest {found[:12]}, expected "
                f"{self._digest[:12]}: they were changed; load the model again"
            )

    def _check_hooks(self) -> None:
        homes: list[Any] = [self._decoder.owner._forward_pre_hooks]
        homes += [layer._forward_hooks for layer in self._decoder.layers]
        missing = len(homes) - sum(
            handle.id in home
            for handle, home in zip(self._handles, homes, strict=False)
        )
        if missing:
            raise SteeringRemovedError(
                f"{missing} of {len(homes)} steering hooks are not on the model: "
                "attach the steerer, and leave the model's hooks alone"
            )

    def _set_strengths(self, strengths: Tensor) -> None:
        for device in {vector.device for vector in self._vectors}:
            resident = self._strengths.get(device)
            if resident is not None and resident.shape[0] == strengths.shape[0]:
                resident.copy_(strengths[:, None])
            else:
                self._strengths[device] = strengths[:, None].to(device)

    def _begin_forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Note where this forward pass starts, before any layer adds to the cache."""
        self._require_permission()
        tokens = kwargs.get("inputs_embeds")
        if tokens is None:
            tokens = kwargs.get("input_ids", args[0] if args else None)
        if tokens is None:
            raise SteeringNotAppliedError(
                f"{type(module).__name__} was called with neither input_ids nor "
                "inputs_embeds: the positions to steer are unknown"
            )
        self._width = int(tokens.shape[1])
        if self._receipt is not None:
            self._past = self._read_past(self._receipt, args, kwargs)

    def _read_past(
        self, receipt: Receipt, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> int:
        cache = passed_cache(args, kwargs)
        if cache is not None:
            return int(cache.get_seq_length())
        # An answer that goes on, or a mask over tokens of before, needs a cache: it
        # was passed out of sight, and its tokens are no part of this pass.
        goes_on = any(receipt.steered) and self._width < receipt.prompt_length
        if goes_on or covers_more(kwargs, self._width):
            raise SteeringNotAppliedError(
                f"a forward pass of {self._width} token(s) goes on after others, and "
                "came without a cache: the positions to steer are unknown; "
                f"{advice()}"
            )
        return 0

    def _require_permission(self) -> None:
        mine = self._thread == threading.get_ident()
        if not mine or (self._receipt is None and not self._may_read):
            raise SteeringNotAppliedError(
                "the model is guarded and was called directly: ask through "
                "SafeAudioLLM.generate, or close the client to have the model back"
            )

    def _steer(self, index: int, output: LayerOutput) -> LayerOutput:
        self._require_permission()
        receipt = self._receipt
        if receipt is None:
            return None
        hidden = read_stream(output, self._decoder.streams)
        strengths = self._strengths[self._vectors[index].device]
        if hidden.shape[0] != strengths.shape[0]:
            raise SteeringNotAppliedError(
                f"{hidden.shape[0]} rows reached layer {index}, strengths are set for "
                f"{strengths.shape[0]}: beams and several answers a prompt cannot be "
                "guarded"
            )
        if self._width == 0:
            raise SteeringNotAppliedError(
                f"layer {index} ran without a forward pass of "
                f"{type(self._decoder.owner).__name__}: its positions are unknown"
            )
        # Some families hand their last layers only the end of the sequence, so
        # positions are counted from the right.
        end = self._past + self._width
        count = min(end - (receipt.prompt_length - 1), hidden.shape[1])
        if index == receipt.layers - 1:
            self._width = 0
        if count <= 0:
            return None
        steered = self._add(index, hidden, strengths, count)
        receipt.steered[index] += count
        if index == receipt.layers - 1:
            healthy = torch.isfinite(steered[:, -count:]).flatten(1).all(dim=1)
            receipt.healthy = (
                healthy if receipt.healthy is None else receipt.healthy & healthy
            )
        return write_stream(output, steered)

    def _add(self, index: int, hidden: Tensor, strengths: Tensor, count: int) -> Tensor:
        # Small doses vanish in bfloat16, so only the product is rounded to it.
        push = (strengths * self._vectors[index]).to(hidden.dtype)[:, None, :]
        if count == hidden.shape[1]:
            return hidden + push
        # The layer may still hold its output elsewhere, so a copy is changed.
        steered = hidden.clone()
        steered[:, -count:] += push
        return steered


def _check_counts(receipt: Receipt, output_tokens: int, *, whole: bool) -> None:
    # The last token that is chosen is never fed back.
    expected = 1 + (output_tokens - 1)
    wrong = [i for i, count in enumerate(receipt.steered) if count != expected]
    if wrong or output_tokens < 1 or not whole:
        raise SteeringNotAppliedError(
            f"{output_tokens} output token(s) need {expected} steered position(s) "
            f"on each of {receipt.layers} layers, found {receipt.steered}"
            f"{untested_advice()}"
        )
