"""What a person has written: the environment, ``.env``, and the Kimi tokens in it."""
