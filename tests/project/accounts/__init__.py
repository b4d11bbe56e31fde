"""Users of another kind than Django's own, for tests that set AUTH_USER_MODEL."""
