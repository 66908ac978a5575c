"""From the settings of other trainers to a recipe of ours, with an account of every key.

A file is read into keys (`reading`, `shell`, `python_script`), the trainer that it is for is
recognised (`recognise`), and the rules of that trainer (`trl`, `llama_factory`, `axolotl`,
`ms_swift`) write settings into a `Ledger`, which holds that no key is passed over. Nothing of a
file is ever run.
"""

from __future__ import annotations

from orpo.migrate.convert import Conversion, convert
from orpo.migrate.ledger import FILL_IN, Key, Outcome, Setting
from orpo.migrate.recipe import recipe_text
from orpo.migrate.recognise import PEERS

__all__ = [
    "FILL_IN",
    "PEERS",
    "Conversion",
    "Key",
    "Outcome",
    "Setting",
    "convert",
    "recipe_text",
]
