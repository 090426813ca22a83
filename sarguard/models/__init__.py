"""Audio-language models: loading them, their inputs and their decoder layers."""
