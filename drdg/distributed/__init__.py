"""Station 3, ranks: who they are, and how they stay in step. Empty, so that who asks for ranks need not load torch."""
