"""Verification of the ledger. `verifier` checks the entries of each account; `sql_checks` compares tables."""
