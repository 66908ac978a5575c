"""AlpacaEval 2: a win rate with a published baseline, a data format and a leaderboard."""
