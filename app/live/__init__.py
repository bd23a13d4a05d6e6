"""Live updates: the change feed (LISTEN/NOTIFY) and a cache of the latest states that subscribers share."""
