"""What ``benchmark.py`` is made of: workloads, contenders, clocks, checks and reports."""
