"""Tests of app/topups/stripe."""
