"""persisted."""
