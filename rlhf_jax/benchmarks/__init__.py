"""Speed and memory, measured: workloads, clocks, and the same work through peers."""
