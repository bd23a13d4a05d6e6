"""Prepaid credits for a platform that runs AI agents. The rooms and their order are drawn in README.md."""
