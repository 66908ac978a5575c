"""Before the first step: whatever could stop a run later is tried, and refused in one line."""
