"""The embedded reference model: a small Qwen2-Audio put together on the spot.

`assemble.ensure_reference` is the way in. Its parts: `bases` (what is pinned),
`fetch` (how it gets here), `ct2`, `gguf_text` and `tokenizer` (how it is read),
`difference` (what our training changed), `build` (the model), `cache` (the disk).
"""
