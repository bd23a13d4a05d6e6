"""Persisted documents: the server reads them when it starts, and clients send the hash of a document, not its text."""
