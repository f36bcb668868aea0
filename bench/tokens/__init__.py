"""How near ``app.tokens`` comes to real tokenizers: a corpus, their counts, and the comparison."""
