"""The settings of a gateway, including the Kimi tokens."""
