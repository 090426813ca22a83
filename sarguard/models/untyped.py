"""Names for what transformers builds at run time and has no static type."""

from __future__ import annotations

from typing import Any, TypeAlias

Config: TypeAlias = Any
"""A PreTrainedConfig, whose fields differ from family to family."""

PretrainedModel: TypeAlias = Any
"""A PreTrainedModel with generate()."""

Processor: TypeAlias = Any
"""A ProcessorMixin with a feature extractor and a tokenizer."""

Tokenizer: TypeAlias = Any
"""A processor's tokenizer."""

LayerOutput: TypeAlias = Any
"""What a decoder layer returns: a tensor, or a tuple that starts with one."""

KeyValueCache: TypeAlias = Any
"""A transformers Cache."""
