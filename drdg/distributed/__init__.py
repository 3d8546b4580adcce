"""Station 3, ranks: who they are, and how they stay in step."""
