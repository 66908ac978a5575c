"""The embedded demonstration: a small bilingual base model, its preference pairs and a checker."""
