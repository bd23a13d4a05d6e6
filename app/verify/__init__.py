"""Verification of the ledger: `verifier` follows the entries of each account, `sql_checks` compare tables."""
