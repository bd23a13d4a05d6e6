"""Tests of app/topups/sandbox."""
