"""What is wrong with preference data before anything is trained on them.

views      a pair as three texts; texts and similar say what they look like
faults     a predicate for each fault of a pair, for the audit and for what mends
checks     what is found in pairs; repeats: what repeats, contradicts or leaks; lengths
run        an audit, in one pass over the rows; findings is what comes out
fix        a cleaned copy without what was found, as repair asks for it; copies writes it
show       a row as the model will see it
"""
