"""Prepaid credits for a platform that runs AI agents. docs/architecture.md describes the packages."""
