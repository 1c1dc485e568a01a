"""What was observed and what it shows: trials, metrics, statistics, comparisons."""
