"""What is wrong with preference data before anything is trained on them.

views      a pair as three texts; shingles and texts say what they look like
faults     a predicate for each fault of a pair, and the rules that grade how many there are
repeats    rows that repeat or contradict each other; leakage: prompts that are in two sets
checks     all checks of texts; lengths: what lengths say
run        an audit, in one pass over the rows; findings is what comes out
fix        a cleaned copy without what was found; repair, entries and copies are its parts
show       a row as the model will see it
"""
