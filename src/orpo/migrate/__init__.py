"""From the settings of other trainers to a recipe of ours, with an account of every key."""
