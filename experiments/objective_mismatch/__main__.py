from experiments import objective_mismatch

objective_mismatch.main()
