"""The page of a data audit, made from the JSON that machines read."""
