"""Models with code of their own: look-alikes of their published module trees.

Their weights and code are not here; what is tested is that the structural search
finds the text decoder in such a tree, or that naming it settles the matter.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sarguard.errors import UnsupportedModelError
from sarguard.models.layers import find_decoder_layers
from sarguard.steering.steerer import Steerer

WIDTH = 8
LAYERS = 3


class Block(nn.Module):
    def __init__(self, width: int = WIDTH, mixer: str = "self_attn") -> None:
        super().__init__()
        self.add_module(mixer, nn.Linear(width, width))
        self.input_layernorm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor) -> tuple[Tensor, str]:
        return hidden + self.self_attn(self.input_layernorm(hidden)), "cache"


def blocks(count: int = LAYERS, **options: Any) -> nn.ModuleList:  # noqa: ANN401
    return nn.ModuleList(Block(**options) for _ in range(count))


class Tree(nn.Module):
    """Hold parts under names of their own."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class Text(Tree):
    """Look like a backbone: embeddings, blocks, a final norm."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__(
            embed_tokens=nn.Embedding(8, WIDTH),
            layers=blocks(),
            norm=nn.LayerNorm(WIDTH),
            **parts,
        )

    def forward(
        self, input_ids: Tensor, past_key_values: object | None = None
    ) -> Tensor:
        hidden: Tensor = self.embed_tokens(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)[0]
        normed: Tensor = self.norm(hidden)
        return normed


def causal(**parts: nn.Module) -> Tree:
    return Tree(model=Text(**parts), lm_head=nn.Linear(WIDTH, 8))


def adapted() -> Tree:
    """Look like a causal model inside PEFT."""
    return Tree(base_model=Tree(model=causal()))


def tower(count: int = LAYERS, **options: Any) -> Tree:  # noqa: ANN401
    return Tree(layers=blocks(count, **options), layer_norm=nn.LayerNorm(WIDTH))


def ultravox() -> Tree:
    return Tree(
        audio_tower=tower(),
        multi_modal_projector=nn.Linear(8, 8),
        language_model=causal(),
    )


def ultravox_with_adapter() -> Tree:
    return Tree(audio_tower=tower(), language_model=adapted())


def minicpm_o() -> Tree:
    return Tree(
        llm=causal(),
        vpm=Tree(encoder=tower()),
        apm=tower(),
        tts=Tree(model=Text()),
        resampler=nn.Linear(8, 8),
    )


def kimi_audio() -> Tree:
    return Tree(
        model=Text(
            mimo_layers=blocks(2),
            mimo_norm=nn.LayerNorm(WIDTH),
            vq_adaptor=Tree(layers=nn.ModuleList([nn.Linear(8, 8)])),
        ),
        mimo_output=nn.Linear(WIDTH, 8),
        lm_head=nn.Linear(WIDTH, 8),
    )


def qwen_audio() -> Tree:
    return Tree(
        transformer=Tree(
            wte=nn.Embedding(8, WIDTH),
            h=blocks(mixer="attn"),
            ln_f=nn.LayerNorm(WIDTH),
            audio=Tree(blocks=blocks(mixer="attn"), ln_post=nn.LayerNorm(WIDTH)),
        ),
        lm_head=nn.Linear(WIDTH, 8),
    )


def salmonn() -> Tree:
    return Tree(
        speech_encoder=tower(),
        beats=Tree(encoder=tower(2)),
        speech_Qformer=Tree(encoder=Tree(layer=blocks(2, mixer="attention"))),
        llama_model=adapted(),
    )


def salmonn_without_adapter() -> Tree:
    return Tree(speech_encoder=tower(), llama_model=causal())


def meralion() -> Tree:
    return Tree(
        speech_encoder=tower(),
        speech_audio_adapter=nn.Linear(8, 8),
        text_decoder=causal(),
    )


def step_audio() -> Tree:
    return Tree(
        model=Text(),
        encoder=Tree(blocks=blocks(mixer="attn")),
        adapter=nn.Linear(8, 8),
        lm_head=nn.Linear(WIDTH, 8),
    )


LAYOUTS = {
    ultravox: "language_model.model.layers",
    ultravox_with_adapter: "language_model.base_model.model.model.layers",
    minicpm_o: "llm.model.layers",
    kimi_audio: "model.layers",
    qwen_audio: "transformer.h",
    salmonn: "llama_model.base_model.model.model.layers",
    salmonn_without_adapter: "llama_model.model.layers",
    meralion: "text_decoder.model.layers",
    step_audio: "model.layers",
}
by_layout = pytest.mark.parametrize(
    ("build", "path"), LAYOUTS.items(), ids=[made.__name__ for made in LAYOUTS]
)


def configured(tree: Tree, layers: int = LAYERS) -> Tree:
    tree.config = SimpleNamespace(  # type: ignore[assignment]
        num_hidden_layers=layers, hidden_size=WIDTH, is_encoder_decoder=False
    )
    return tree


@by_layout
def test_the_text_decoder_is_found(build: Any, path: str) -> None:  # noqa: ANN401
    found = find_decoder_layers(configured(build()))
    assert (found.path, len(found), found.hidden_size) == (path, LAYERS, WIDTH)


@by_layout
def test_it_can_be_named_where_the_config_says_nothing(build: Any, path: str) -> None:  # noqa: ANN401
    tree = build()
    tree.config = SimpleNamespace()
    found = find_decoder_layers(tree, decoder_layers=path)
    assert found.layers == tuple(tree.get_submodule(path))


@by_layout
def test_a_config_that_disagrees_is_an_error(build: Any, path: str) -> None:  # noqa: ANN401
    with pytest.raises(UnsupportedModelError, match="decoder_layers="):
        find_decoder_layers(configured(build(), layers=17))


def test_layers_that_return_tuples_are_steered() -> None:
    torch.manual_seed(0)
    tree = configured(kimi_audio())
    decoder = find_decoder_layers(tree)
    vectors = torch.randn(LAYERS, WIDTH)
    ids = torch.tensor([[1, 2, 3]])
    bare = last_outputs(decoder.layers, lambda: decoder.owner(ids))
    with (
        Steerer(decoder, vectors) as steerer,
        torch.no_grad(),
        steerer.guard(prompt_length=3, alpha=0.5, rows=1) as receipt,
    ):
        steered = last_outputs(decoder.layers, lambda: decoder.owner(ids))
    steerer.attach()
    steerer.verify(receipt, output_tokens=1)
    steerer.detach()
    assert torch.equal(steered[0][0, :-1], bare[0][0, :-1])
    torch.testing.assert_close(steered[0][0, -1] - bare[0][0, -1], 0.5 * vectors[0])


def last_outputs(layers: Any, action: Any) -> list[Tensor]:  # noqa: ANN401
    seen: list[Tensor] = []
    handles = [
        layer.register_forward_hook(lambda _m, _a, out: seen.append(out[0].detach()))
        for layer in layers
    ]
    action()
    for handle in handles:
        handle.remove()
    return seen
