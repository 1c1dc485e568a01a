"""What a run shows: metrics, statistics, paired comparisons."""
