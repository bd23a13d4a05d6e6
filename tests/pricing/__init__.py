"""Tests of app/pricing."""
