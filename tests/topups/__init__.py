"""Tests of app/topups."""
