"""What becomes of memory, latencies and answers under hours of steady, mixed load."""
