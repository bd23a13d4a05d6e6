"""Tests of app/topups/refunds."""
