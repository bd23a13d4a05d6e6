"""A model-based test of the ledger: random requests, each compared with a simple model."""
