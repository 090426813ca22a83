"""How a family of audio-language models is loaded, spoken to and looked into."""
