"""`orpo data audit|show|fix`."""

ACTIONS = {
    "audit": "what is wrong with a data set, with a verdict for each check",
    "show": "what the model will see, token by token, and what counts in the loss",
    "fix": "write a cleaned copy, with a ledger of every change",
}

EXAMPLES = """\
examples:
  orpo data audit pairs.jsonl --model ./model --html audit.html
  orpo data show pairs.jsonl --model ./model -n 3
  orpo data fix pairs.jsonl clean.jsonl --held_out 0.05 --held_out_output test.jsonl

`orpo data ACTION --help` shows its options and examples; --json works with each of them."""
