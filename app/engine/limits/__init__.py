"""Limits on what a caller may send: the complexity of a document, the rate and number of operations."""
