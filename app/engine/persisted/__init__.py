"""Persisted documents: known before the first request, so that clients send the hash of a document and not its text."""
