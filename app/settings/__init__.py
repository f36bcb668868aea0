"""The settings of a gateway, and the Kimi tokens in them."""
