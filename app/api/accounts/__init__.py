"""API of accounts: the account and its lists, the balance, grants and the statement."""
