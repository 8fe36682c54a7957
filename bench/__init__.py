"""Speed, as ratios measured in one run: ours beside the naive way."""
