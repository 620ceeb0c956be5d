from experiments.objective_mismatch import audit

audit.main()
