"""The embedded reference model: a small Qwen2-Audio, assembled at first use.

`assemble.ensure_reference` is the entry point. The other modules: `bases` (the pinned
base weights), `fetch` (their download), `ct2`, `gguf_text` and `tokenizer` (their
formats), `difference` (what training changed), `build` (the model), `cache` (the disk).
"""
