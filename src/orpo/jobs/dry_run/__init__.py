"""What a run would take: the data as they are read, the model without weights, an estimate."""
