"""The actors, a package each, and what they share: their life, the fold, intents."""
