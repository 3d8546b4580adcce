"""Station 7, comparison: several runs in one table, as means over their seeds, beside what papers print."""
