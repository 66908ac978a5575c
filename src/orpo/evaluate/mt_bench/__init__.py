"""MT-Bench: 80 two-turn questions, graded 1 to 10, scored by turn and category.

benchmark ─ questions, reference answers and judge prompts, from a folder or fetched
fastchat ─ FastChat's files of answers and judgments; the score in a judgment
grading ─ what the judge reads, and what it says
scores ─ by turn, by category, with intervals
"""
