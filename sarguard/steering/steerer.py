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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
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
from sarguard.steering.dose import check_alpha
from sarguard.steering.integrity import (
    ModelIntegrity,
    TensorSnapshot,
    refuse_compiled,
)
from sarguard.steering.residual import read_residual, write_residual
from sarguard.steering.vectors import place_on_layers, vectors_digest

# Set on the decoder while it is guarded, so that a second steerer is refused: two sets
# of hooks would add their vectors twice.
_ATTRIBUTE = "_sarguard_steerer"


@dataclass(slots=True, kw_only=True)
class HookReceipt:
    """What the hooks did during one `Steerer.guard`; filled in while it runs."""

    prompt_length: int
    alpha: tuple[float, ...]
    """Steering coefficient of each row."""
    layers: int
    steered: list[int] = field(default_factory=list)
    """Positions steered on each layer, the same for every row."""
    healthy: Tensor | None = None
    """Whether each row was finite on the last layer, on its device."""
    closed: bool = False
    """Whether the guard has ended."""

    def __post_init__(self) -> None:
        self.steered = [0] * self.layers


class PassAbandonedError(Exception):
    """A forward pass that nobody wanted the end of was broken off between layers."""


class Steerer:
    """The hooks that steer a model's text decoder and keep it from running unsteered.

    While attached, a forward pass is possible only inside `guard`, which steers and
    counts, or inside `bare`, which is for measuring the unsteered model; and only on
    the thread that entered it.
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
        self._vectors = place_on_layers(vectors, decoder.layers)
        self._snapshot = TensorSnapshot(self._vectors)
        # Of the vectors as they were given; what was placed on the devices is held to
        # it.
        self._digest = vectors_digest(vectors) if digest is None else digest
        self._integrity = ModelIntegrity(decoder)
        self._handles: list[RemovableHandle] = []
        # (rows, 1) on each device that holds a layer: a model may be spread over
        # several.
        self._alphas: dict[torch.device, Tensor] = {}
        self._receipt: HookReceipt | None = None
        # The thread inside `guard` or `bare`, None between requests. Other threads may
        # hold the same model, and must not run it under this one's permission.
        self._thread: int | None = None
        self._bare = False
        self._wanted: Callable[[], bool] | None = None
        # Of the forward pass that runs: positions in its cache, and those it adds.
        self._past = 0
        self._added = 0
        self._check_digest()

    @property
    def attached(self) -> bool:
        """Return whether the hooks were put on and not taken off by `detach`."""
        return bool(self._handles)

    @property
    def digest(self) -> str:
        """Return the digest that the vectors on the devices have to have."""
        return self._digest

    def attach(self) -> None:
        """Put the hooks on.

        Raises:
            SteeringError: This or another steerer is attached already.
            ConfigurationError: The model is compiled.
        """
        if getattr(self._decoder.owner, _ATTRIBUTE, None) is not None:
            raise SteeringError(
                "the model is guarded already: close the client that guards it first"
            )
        # The whole model: a part around the decoder that is compiled traces the layers
        # too.
        refuse_compiled(self._decoder.root)
        self._integrity.check()
        owner = self._decoder.owner
        # With keywords: a cache and embeddings reach the decoder as keyword arguments.
        begin = SteeringHook(self._begin_forward)
        self._handles = [owner.register_forward_pre_hook(begin, with_kwargs=True)]
        for index, layer in enumerate(self._decoder.layers):
            hook = SteeringHook(partial(self._steer, index))
            # Before all other hooks, so whatever else reads the layer sees it steered.
            self._handles.append(layer.register_forward_hook(hook, prepend=True))
        setattr(owner, _ATTRIBUTE, self)

    def detach(self) -> None:
        """Take the hooks off; the model is as it was."""
        for handle in self._handles:
            handle.remove()
        if self._handles:
            # Only where this steerer is attached: the attribute may be another one's.
            delattr(self._decoder.owner, _ATTRIBUTE)
        self._handles = []

    def __enter__(self) -> Steerer:
        self.attach()
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    @contextmanager
    def guard(
        self, *, prompt_length: int, alpha: float | Sequence[float] | Tensor, rows: int
    ) -> Iterator[HookReceipt]:
        """Steer every forward pass inside the block.

        Args:
            prompt_length: T, columns of the left-padded prompt.
            alpha: Coefficient, one for all rows or one a row; above 0 and finite.
            rows: Rows of the batch.

        Yields:
            The receipt that the hooks fill in; pass it to `verify`.

        Raises:
            ConfigurationError: A coefficient is out of range, or their number is wrong.
            SteeringError: The steerer is busy.
            SteeringRemovedError: The hooks are not on the model, or its layers were
                replaced.
        """
        # All checks come before anything is taken: if one raises, the steerer stays
        # free.
        alphas = alpha_per_row(alpha, rows)
        if prompt_length < 1:
            raise ConfigurationError(
                f"prompt_length is {prompt_length}: need 1 or more"
            )
        self._check_idle()
        # Hooks and layers first: where they are gone the counts are wrong too, and the
        # cause is the error to raise.
        self._check_hooks()
        self._integrity.check()
        self._set_alphas(alphas)
        # A pass that raised in an earlier request may have left its count.
        self._added = 0
        receipt = HookReceipt(
            prompt_length=prompt_length,
            # As float32 rounds them: `check` compares them with the device's tensor.
            alpha=tuple(float(a) for a in alphas),
            layers=len(self._decoder),
        )
        self._receipt, self._thread = receipt, threading.get_ident()
        try:
            yield receipt
        finally:
            self._receipt, self._thread = None, None
            # `verify` takes closed receipts only: inside the guard more passes may
            # come.
            receipt.closed = True

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Let the model run unsteered inside the block, to measure or calibrate it.

        Raises:
            SteeringError: The steerer is busy.
        """
        self._check_idle()
        self._bare, self._thread = True, threading.get_ident()
        try:
            yield
        finally:
            self._bare, self._thread = False, None

    @contextmanager
    def while_wanted(self, wanted: Callable[[], bool]) -> Iterator[None]:
        """Break a forward pass off at its next layer, once nobody wants its end.

        A long prompt takes as long as hundreds of decode steps, and whoever asked may
        have left.

        Args:
            wanted: Asked on each layer of each pass inside the block.

        Raises:
            PassAbandonedError: From within the pass.
        """
        self._wanted = wanted
        try:
            yield
        finally:
            self._wanted = None

    def verify(self, receipt: HookReceipt, *, output_tokens: int) -> None:
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
        self._integrity.check()
        _check_counts(receipt, output_tokens, whole=receipt.closed)
        if receipt.healthy is None or not bool(receipt.healthy.all()):
            raise NonFiniteActivationError(
                "a steered state holds NaN or infinity: lower alpha, or load the model "
                "in bfloat16 or float32"
            )
        self._check_digest()

    def check(self, receipt: HookReceipt, *, output_tokens: int) -> list[bool]:
        """Check the answers so far, inside the guard and before a token leaves it.

        Cheaper than `verify`, as it runs at every decode step: the vectors are
        compared with a copy on their device, and the digest is taken only if they
        differ.

        Args:
            receipt: What `guard` gave.
            output_tokens: Tokens that the model chose for each row, the next included.

        Returns:
            Whether each row's steered states were finite.

        Raises:
            SteeringRemovedError: Hooks are gone, or vectors or alpha were changed.
            SteeringNotAppliedError: A layer steered more or fewer positions than it
                had to.
        """
        self._check_hooks()
        # The guard is open, so these are the counts so far, after each step.
        _check_counts(receipt, output_tokens, whole=True)
        # A difference alone is no error: the digest, which says what was expected,
        # decides.
        if self._snapshot.differs(self._vectors):
            self._check_digest()
        for alphas in self._alphas.values():
            if tuple(alphas[:, 0].tolist()) != receipt.alpha:
                raise SteeringRemovedError(
                    f"alpha on the device is {alphas[:, 0].tolist()}, expected "
                    f"{list(receipt.alpha)}: it was changed during the request"
                )
        return [] if receipt.healthy is None else receipt.healthy.tolist()

    def _check_idle(self) -> None:
        if self._thread is not None:
            raise SteeringError(
                "the steerer is busy with another request: serialise requests"
            )

    def _check_digest(self) -> None:
        # Read back from the devices: what the CPU once held proves nothing about them.
        found = vectors_digest(torch.stack([v.to("cpu") for v in self._vectors]))
        if found != self._digest:
            raise SteeringRemovedError(
                f"the vectors on the device have digest {found[:12]}, expected "
                f"{self._digest[:12]}: they were changed; load the model again"
            )

    def _check_hooks(self) -> None:
        # A handle does not tell that somebody else cleared the dict its hook was in, so
        # the ids are looked up there. Without handles every hook counts as missing.
        registries: list[Any] = [self._decoder.owner._forward_pre_hooks]
        registries += [layer._forward_hooks for layer in self._decoder.layers]
        missing = len(registries) - sum(
            handle.id in registry
            for handle, registry in zip(self._handles, registries, strict=False)
        )
        if missing:
            raise SteeringRemovedError(
                f"{missing} of {len(registries)} steering hooks are not on the model: "
                "attach the steerer, and leave the model's hooks alone"
            )

    def _set_alphas(self, alphas: Tensor) -> None:
        # In place where the shape allows it: compiled steps keep reading this tensor.
        for device in {vector.device for vector in self._vectors}:
            held = self._alphas.get(device)
            if held is not None and held.shape[0] == alphas.shape[0]:
                held.copy_(alphas[:, None])
            else:
                self._alphas[device] = alphas[:, None].to(device)

    def _begin_forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Note where this forward pass starts, before any layer adds to the cache."""
        self._require_permission()
        # Embeddings first: models with audio merge clips and tokens into them.
        # Positions are dimension 1 of either.
        tokens = kwargs.get("inputs_embeds")
        if tokens is None:
            tokens = kwargs.get("input_ids", args[0] if args else None)
        if tokens is None:
            raise SteeringNotAppliedError(
                f"{type(module).__name__} was called with neither input_ids nor "
                "inputs_embeds: the positions to steer are unknown"
            )
        self._added = int(tokens.shape[1])
        if self._receipt is not None:
            self._past = self._read_past(self._receipt, args, kwargs)

    def _read_past(
        self, receipt: HookReceipt, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> int:
        cache = passed_cache(args, kwargs)
        if cache is not None:
            return int(cache.get_seq_length())
        # An answer that goes on, or a mask over tokens of before, needs a cache: it
        # was passed out of sight, and its tokens are no part of this pass.
        goes_on = any(receipt.steered) and self._added < receipt.prompt_length
        if goes_on or covers_more(kwargs, self._added):
            raise SteeringNotAppliedError(
                f"a forward pass of {self._added} token(s) goes on after others, and "
                "came without a cache: the positions to steer are unknown; "
                f"{advice()}"
            )
        return 0

    def _require_permission(self) -> None:
        # `_thread` is None between requests, so no thread has permission then.
        mine = self._thread == threading.get_ident()
        if not mine or (self._receipt is None and not self._bare):
            raise SteeringNotAppliedError(
                "the model is guarded and was called directly: ask through "
                "SafeAudioLLM.generate, or close the client to have the model back"
            )

    def _steer(
        self, index: int, _module: nn.Module, _args: object, output: LayerOutput
    ) -> LayerOutput:
        self._require_permission()
        if self._wanted is not None and not self._wanted():
            raise PassAbandonedError
        receipt = self._receipt
        # Inside `bare`. A forward hook that returns None leaves the output as it is.
        if receipt is None:
            return None
        hidden = read_residual(output, self._decoder.streams)
        alphas = self._alphas[self._vectors[index].device]
        if hidden.shape[0] != alphas.shape[0]:
            raise SteeringNotAppliedError(
                f"{hidden.shape[0]} rows reached layer {index}, alpha is set for "
                f"{alphas.shape[0]}: beams and several answers a prompt cannot be "
                "guarded"
            )
        if self._added == 0:
            raise SteeringNotAppliedError(
                f"layer {index} ran without a forward pass of "
                f"{type(self._decoder.owner).__name__}: its positions are unknown"
            )
        # Some families hand their last layers only the end of the sequence, so
        # positions are counted from the right.
        end = self._past + self._added
        count = min(end - (receipt.prompt_length - 1), hidden.shape[1])
        # The pass is over: a layer that runs again before the next one finds no count,
        # and raises above.
        if index == receipt.layers - 1:
            self._added = 0
        # All of the pass lies before T - 1: the interior of a prompt is not steered.
        if count <= 0:
            return None
        steered = self._add(index, hidden, alphas, count)
        receipt.steered[index] += count
        if index == receipt.layers - 1:
            # NaN and infinity stay in the residual, so the last layer shows them all.
            # The result stays on the device until `check` reads it, once a step.
            healthy = torch.isfinite(steered[:, -count:]).flatten(1).all(dim=1)
            receipt.healthy = (
                healthy if receipt.healthy is None else receipt.healthy & healthy
            )
        return write_residual(output, steered)

    def _add(self, index: int, hidden: Tensor, alphas: Tensor, count: int) -> Tensor:
        # Vectors and alpha stay float32, and only their product is rounded to the
        # model's dtype: a small alpha would lose its digits in bfloat16.
        push = (alphas * self._vectors[index]).to(hidden.dtype)[:, None, :]
        # Every position is steered, as at each decode step: the sum is a new tensor.
        if count == hidden.shape[1]:
            return hidden + push
        # The layer may still hold its output elsewhere, so a copy is changed.
        steered = hidden.clone()
        steered[:, -count:] += push
        return steered


class SteeringHook:
    """A hook on the model; a class, so that it names itself when inspected.

    Steering counts, compares and updates in place, which a compiler must not freeze
    into a graph: where torch.compile traces a hook, it is told to leave and run it as
    it is. Alpha then changes without a recompile, and receipts count compiled steps.
    """

    __slots__ = ("_call", "_uncompiled")

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self._uncompiled = torch.compiler.disable(call)  # type: ignore[no-untyped-call]

    def __call__(self, *args: Any) -> Any:  # noqa: ANN401
        if torch.compiler.is_compiling():
            return self._uncompiled(*args)
        return self._call(*args)


def alpha_per_row(alpha: float | Sequence[float] | Tensor, rows: int) -> Tensor:
    """Return one steering coefficient a row, float32 on the CPU, shape (rows,).

    Raises:
        ConfigurationError: Their number is wrong, or one is not finite or not above 0.
    """
    given = torch.as_tensor(alpha, dtype=torch.float32).detach().cpu().reshape(-1)
    # Cloned, as expand() shows one value several times and shares its memory.
    values = given.expand(rows).clone() if given.numel() == 1 else given
    if values.shape[0] != rows:
        raise ConfigurationError(
            f"{values.shape[0]} values of alpha for {rows} rows: give one, or one a row"
        )
    for value in values.tolist():
        check_alpha("alpha", value)
    return values


def _check_counts(receipt: HookReceipt, output_tokens: int, *, whole: bool) -> None:
    # The last prompt token, and each answer token but the last, which is never fed
    # back.
    expected = 1 + (output_tokens - 1)
    wrong = [i for i, count in enumerate(receipt.steered) if count != expected]
    if wrong or output_tokens < 1 or not whole:
        raise SteeringNotAppliedError(
            f"{output_tokens} output token(s) need {expected} steered position(s) "
            f"on each of {receipt.layers} layers, found {receipt.steered}"
            f"{untested_advice()}"
        )
