"""Compares ``app.text.token_count`` with real tokenizers: a corpus, their counts, and a table."""
