"""The actors, a package each, and what they share: their life cycle, the fold, intents."""
