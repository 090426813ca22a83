"""What an evaluation asks: suites, variants and public sets."""
