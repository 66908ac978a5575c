"""Which answer a model prefers: held-out pairs scored, with intervals, groups and calibration."""
