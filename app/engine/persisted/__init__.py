"""Persisted documents are read before the first request, so that clients send the hash of a document, not its text."""
