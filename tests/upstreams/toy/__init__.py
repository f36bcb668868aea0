"""An upstream and a public API that only exist here: what docs/adding.md says is all that they need."""
