"""Tests of app/topups/auto_topup."""
