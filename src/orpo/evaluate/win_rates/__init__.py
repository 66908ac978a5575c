"""Win rates of one model against another, as judged and with answers' length taken out."""
