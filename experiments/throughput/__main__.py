from experiments.throughput import benchmark

benchmark.main()
